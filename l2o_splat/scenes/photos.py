"""From a folder of photographs to a posed capture, by structure from motion with COLMAP.

SIFT features, matching, incremental mapping and undistortion all come from ``pycolmap`` (COLMAP,
Schoenberger and Frahm, CVPR 2016) on the CPU; it is an optional dependency.
"""

from __future__ import annotations

import mimetypes
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from PIL import Image

from l2o_splat.scenes.capture import Points, new_directory, write_transforms
from l2o_splat.scenes.photo_folders import PhotosError, check_folders
from l2o_splat.scenes.pixels import HEIF_SUFFIXES, PixelsError, on_black, read_exif, read_header, read_photograph
from l2o_splat.views import PinholeCameras

Matching = Literal["auto", "exhaustive", "sequential"]

_SEED = 0
_JPEG_QUALITY = 95
_NO_PHOTOGRAPHS = {"__MACOSX", "@eaDir", "mask", "masks"}
"""Subfolders of these names are not searched."""


Progress = Callable[[str, float], None]
"""Called with the name of a phase (one of :data:`PHASES`) and the share of it that is done, 0 to 1."""

PHASES = ("frames", "reading", "features", "matching", "mapping", "undistorting")
"""The phases of :func:`pose_photos` in their order; ``frames`` comes for a video alone."""


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


def no_progress(phase: str, share: float) -> None:
    """The progress callback that shows nothing."""


def pose_photos(
    photos: Path,
    out: Path,
    *,
    max_size: int = 1600,
    matching: Matching = "auto",
    frames: int = 80,
    num_threads: int = -1,
    progress: Progress = no_progress,
    report: Callable[[str], None] = print,
) -> PosedCapture:
    """Pose the photographs of a folder, or the frames of a video, and write an undistorted capture.

    The capture holds ``images/*.jpg``, ``sparse/0/*.bin`` (COLMAP, PINHOLE cameras), and the same cameras
    and points as ``transforms.json`` and ``sparse_pc.ply``; so both ``colmap --colmap-path sparse/0`` and
    ``nerfstudio-data`` read it. It appears complete or not at all; the photographs are only read.

    Args:
        photos: Folder of photographs, in itself or in subfolders, or a video file; EXIF orientations are honoured.
        out: Folder of the capture: new or empty, not within ``photos``.
        max_size: Longer photographs are reduced to this many pixels on the long side.
        matching: ``exhaustive`` compares every pair; ``sequential`` each photograph with the next 10 in the
            order of their names, for long walks and video frames; ``auto`` is exhaustive for photographs and short
            videos, and sequential for long videos.
        frames: How many frames are taken from a video.
        num_threads: Threads of COLMAP; -1 is one for each core.
        progress: Called in the thread of the caller, for each phase from share 0 to share 1. What it raises ends the
            work and leaves no capture behind.
        report: Receives remarks and warnings, one a line.

    Raises:
        PhotosError: pycolmap is missing, the folders are not fit, or too few photographs can be read or posed.
    """
    check_folders(photos, out)
    if max_size < 64:
        raise PhotosError(f"max_size is {max_size}; at least 64 pixels are needed to find features.")
    pycolmap = _import_pycolmap()
    with new_directory(out) as partial, _quiet(pycolmap):
        work = partial / "work"
        progress("reading", 0.0)
        names = _prepare(photos, work / "images", max_size, report)
        progress("reading", 1.0)
        model = _reconstruct(pycolmap, work, names, matching, report)
        progress("mapping", 1.0)
        report("Undistorting the photographs.")
        (work / "model").mkdir()
        model.write(work / "model")
        pycolmap.undistort_images(
            work / "undistorted", work / "model", work / "images", jpeg_quality=_JPEG_QUALITY, output_type="COLMAP"
        )
        (work / "undistorted" / "images").rename(partial / "images")
        (partial / "sparse").mkdir()
        (work / "undistorted" / "sparse").rename(partial / "sparse" / "0")
        _write_transforms(partial, pycolmap.Reconstruction(partial / "sparse" / "0"))
        shutil.rmtree(work)
        progress("undistorting", 1.0)
        registered = {image.name for image in model.images.values() if image.has_pose}
        result = PosedCapture(
            folder=out,
            registered=len(registered),
            of=len(names),
            missing=tuple(original for name, original in names.items() if name not in registered),
            points=model.num_points3D(),
            error=model.compute_mean_reprojection_error(),
            parallax=_parallax(model),
        )
    missing = f"; without a pose: {', '.join(result.missing)}" if result.missing else ""
    report(
        f"Posed {result.registered} of {result.of} photographs with {result.points} points, "
        f"mean reprojection error {result.error:.2f} px{missing}."
    )
    return result


def _parallax(model) -> float:
    centres = {i: image.projection_center() for i, image in model.images.items() if image.has_pose}
    widest = []
    for point in model.points3D.values():
        seen = np.array([centres[i] for i in {element.image_id for element in point.track.elements}])
        rays = seen - point.xyz
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        widest.append(np.degrees(np.arccos(np.clip((rays @ rays.T).min(), -1, 1))))
    return float(np.median(widest)) if widest else 0.0


def _import_pycolmap() -> ModuleType:
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


def _prepare(photos: Path, folder: Path, max_size: int, report: Callable[[str], None]) -> dict[str, str]:
    """Upright JPEG copies of at most ``max_size`` pixels; returns the original name of each copy."""
    paths = find_photographs(photos)
    report(f"Reading the photographs in {photos}{_subfolders(paths)}.")
    folder.mkdir(parents=True)
    names: dict[str, str] = {}
    unreadable, transparent, several = [], [], []
    sizes: Counter[tuple[int, int]] = Counter()
    for path, name in zip(paths, copy_names(paths), strict=True):
        original = path.as_posix()
        try:
            header, pixels = read_header(photos / path), read_photograph(photos / path)
        except PixelsError:
            unreadable.append(original)
            continue
        if pixels.shape[2] == 4 and pixels[..., 3].min() < 255:
            transparent.append(original)
        if header.num_pictures > 1:
            several.append(original)
        upright = Image.fromarray(on_black(pixels))
        sizes[upright.size] += 1
        upright.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
        # COLMAP takes its first guess of the focal length from the EXIF data.
        exif = read_exif(photos / path)
        upright.save(folder / name, quality=_JPEG_QUALITY, subsampling=0, exif=exif)
        names[name] = original
    if len(names) < 2:
        found = f"; these could not be read: {_listed(unreadable)}" if unreadable else ""
        raise PhotosError(
            f"{photos} holds {len(names)} readable photographs{found}; at least 2 are needed, in JPEG, PNG or "
            f"TIFF{_heif_remark(unreadable)}."
        )
    if len(sizes) > 1:
        counts = ", ".join(f"{count} of {width} x {height}" for (width, height), count in sizes.most_common(4))
        raise PhotosError(
            f"The photographs in {photos} differ in size ({counts} pixels); one size and orientation is needed: "
            "leave the others out or crop them."
        )
    if unreadable:
        remark = _heif_remark(unreadable)
        report(f"Left out {len(unreadable)} files that could not be read: {_listed(unreadable)}{remark}.")
    if several:
        report(f"The first picture counts of files that hold several: {_listed(several)}.")
    if transparent:
        report(f"Transparent pixels become black in {len(transparent)} photographs: {_listed(transparent)}.")
    return names


def find_photographs(folder: Path) -> list[Path]:
    """Paths of the image files in a folder and its subfolders, relative to it, sorted.

    Hidden files and folders, what systems leave behind (``__MACOSX``, ``@eaDir``), folders of masks and links to
    folders are left out; of several links to one file the first counts.
    """
    found: dict[Path, Path] = {}
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in _NO_PHOTOGRAPHS)
        for name in sorted(files):
            path = Path(directory) / name
            if _looks_like_image(path) and path.is_file():
                found.setdefault(path.resolve(), path.relative_to(folder))
    return sorted(found.values())


def copy_names(paths: list[Path]) -> list[str]:
    """A name of its own for the JPEG copy of each path: ``walk0/IMG_000.JPG`` becomes ``walk0_IMG_000.jpg``."""
    flat = ["_".join(path.parts) for path in paths]
    stems = Counter(Path(name).stem.casefold() for name in flat)
    names: list[str] = []
    taken: set[str] = set()
    for name in flat:
        stem = Path(name).stem
        base = stem if stems[stem.casefold()] == 1 else name
        unique, number = base, 2
        while unique.casefold() in taken:
            unique, number = f"{base}_{number}", number + 1
        taken.add(unique.casefold())
        names.append(f"{unique}.jpg")
    return names


def _subfolders(paths: list[Path]) -> str:
    counts = Counter(path.parent.as_posix() for path in paths if path.parent != Path())
    listed = _listed([f"{name} ({count})" for name, count in counts.items()])
    return f" and its subfolders {listed}" if counts else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _heif_remark(names: list[str]) -> str:
    if any(Path(name).suffix.lower() in HEIF_SUFFIXES for name in names):
        return " (HEIC photographs must be converted to JPEG first)"
    return ""


def _looks_like_image(path: Path) -> bool:
    kind = mimetypes.guess_type(path.name)[0] or ""
    known = kind.startswith("image/") or path.suffix.lower() in (*HEIF_SUFFIXES, ".webp")
    return known and not path.name.startswith(".")


def _reconstruct(pycolmap: ModuleType, work: Path, names: dict[str, str], matching: Matching, report):
    """Features, matches and the largest reconstruction of the prepared photographs."""
    pycolmap.set_random_seed(_SEED)
    database = work / "database.db"
    report(f"Finding features in {len(names)} photographs.")
    # Numbered by name before the threads of the extraction race: readers of the model hold out every 8th number.
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, work / "images", pycolmap.CameraMode.SINGLE, image_names=sorted(names))
    pycolmap.extract_features(
        database, work / "images", camera_mode=pycolmap.CameraMode.SINGLE, device=pycolmap.Device.cpu
    )
    report(f"Matching features ({matching}).")
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = _SEED
    match = pycolmap.match_sequential if matching == "sequential" else pycolmap.match_exhaustive
    match(database, verification_options=verification, device=pycolmap.Device.cpu)
    report("Estimating poses.")
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 2
    options.random_seed = _SEED
    (work / "models").mkdir()
    models = pycolmap.incremental_mapping(database, work / "images", work / "models", options=options)
    if not models:
        raise PhotosError(
            f"None of the {len(names)} photographs could be posed; they need detail, sharpness and more than half of "
            "each shared with the next: take more photographs around the same scene."
        )
    return max(models.values(), key=lambda model: model.num_reg_images())


def _write_transforms(directory: Path, model) -> None:
    """The cameras and points of an undistorted model in nerfstudio's convention."""
    images = sorted(model.images.values(), key=lambda image: image.name)
    viewmats = np.tile(np.eye(4), (len(images), 1, 1))
    viewmats[:, :3] = [image.cam_from_world().matrix() for image in images]
    Ks = np.stack([model.cameras[image.camera_id].calibration_matrix() for image in images])
    camera = model.cameras[images[0].camera_id]
    cameras = PinholeCameras(torch.from_numpy(viewmats), torch.from_numpy(Ks), camera.width, camera.height)
    points = [model.points3D[i] for i in sorted(model.points3D)]
    xyz = np.array([point.xyz for point in points], np.float32).reshape(-1, 3)
    rgb = np.array([point.color for point in points], np.float32).reshape(-1, 3) / 255
    names = [f"images/{image.name}" for image in images]
    write_transforms(directory, names, cameras, Points(torch.from_numpy(xyz), torch.from_numpy(rgb)))
