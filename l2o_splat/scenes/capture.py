"""A posed capture, in memory and on disk.

On disk it is what nerfstudio's ``nerfstudio-data`` reads: ``images/``, ``transforms.json`` (camera-to-world
matrices, OpenGL axes) and ``sparse_pc.ply`` (xyz and rgb), all in one world frame.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from l2o_splat.scenes.orientation import PosedHeaders, decide_turning
from l2o_splat.scenes.pixels import on_black, read_header, read_photograph
from l2o_splat.views import PinholeCameras, Views, opencv_from_opengl, opengl_from_opencv

_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Points:
    """Sparse points of a scene, as structure from motion finds them."""

    xyz: Float[Tensor, "p 3"]
    """World frame, scene units."""
    rgb: Float[Tensor, "p 3"]
    """sRGB, 0 to 1."""

    def __post_init__(self) -> None:
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3 or self.rgb.shape != self.xyz.shape:
            raise ValueError(
                f"xyz have shape {tuple(self.xyz.shape)} and rgb {tuple(self.rgb.shape)}; [p, 3] is needed for both."
            )

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def to(self, device: torch.device | str) -> Points:
        """The same points on a device."""
        return Points(self.xyz.to(device), self.rgb.to(device))

    def mirrored(self) -> Points:
        """The points in a mirror: world x negated, as by :meth:`l2o_splat.views.Views.mirrored`."""
        return Points(self.xyz * self.xyz.new_tensor([-1.0, 1.0, 1.0]), self.rgb)


@dataclass(frozen=True)
class Capture:
    """Posed photographs and sparse points in one world frame."""

    views: Views
    points: Points


@dataclass(frozen=True)
class SampledCapture(Capture):
    """Some views of a longer capture, chosen together as the papers' view samplers do."""

    context: tuple[int, ...]
    """Indices in ``views`` of those that an optimizer or initializer sees."""
    target: tuple[int, ...]
    """Indices in ``views`` of those that only a loss or a metric sees; none of them is in ``context``."""


@dataclass(frozen=True)
class NamedSplit:
    """A split that a capture carries itself, by paths as its ``transforms.json`` names them."""

    train: Sequence[str]
    """Photographs to train on."""
    test: Sequence[str]
    """Photographs that are held out."""


def write_capture(directory: Path, capture: Capture) -> None:
    """Write images (8-bit PNG), ``transforms.json`` and ``sparse_pc.ply`` to a new directory.

    The directory appears complete or not at all.

    Raises:
        FileExistsError: ``directory`` already holds something, or another writer was first.
    """
    with new_directory(directory) as partial:
        (partial / "images").mkdir()
        names = [f"images/{i:04d}.png" for i in range(len(capture.views))]
        for name, image in zip(names, capture.views.images, strict=True):
            pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            Image.fromarray(pixels).save(partial / name, compress_level=3)
        write_transforms(partial, names, capture.views.cameras, capture.points)


def write_transforms(
    directory: Path,
    names: Sequence[str],
    cameras: PinholeCameras,
    points: Points | None,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    masks: Sequence[str] | None = None,
    distortions: Sequence[Mapping[str, float]] | None = None,
    split: NamedSplit | None = None,
) -> None:
    """Write ``transforms.json`` and ``sparse_pc.ply`` for images that lie at ``names`` in the directory.

    Args:
        directory: Folder of the capture.
        names: Path of each image in it.
        cameras: One for each image.
        points: Sparse points, in the world frame of the cameras; None writes none.
        sizes: Width and height of each image, pixels, in place of those of ``cameras``.
        masks: Path of the mask of each image in the directory.
        distortions: Coefficients of each lens by OpenCV's names (``k1``, ``p1``, ...).
        split: Which images are trained on and which are held out; None leaves it to the reader.
    """
    poses = torch.eye(4, dtype=torch.float64).repeat(len(cameras), 1, 1)
    poses[:, :3] = opengl_from_opencv(cameras.viewmats.double().cpu())
    sizes = sizes or [(cameras.width, cameras.height)] * len(names)
    one_size = len(set(sizes)) == 1
    frames = []
    for i, (name, pose, K) in enumerate(zip(names, poses.tolist(), cameras.Ks.tolist(), strict=True)):
        frame = {"file_path": name, "fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2]}
        if not one_size:
            frame |= {"w": sizes[i][0], "h": sizes[i][1]}
        if masks is not None:
            frame["mask_path"] = masks[i]
        if distortions is not None:
            frame |= distortions[i]
        frames.append({**frame, "transform_matrix": pose})
    size = {"w": sizes[0][0], "h": sizes[0][1]} if one_size else {}
    meta = {"camera_model": "OPENCV", **size, "frames": frames}
    if points is not None:
        meta["ply_file_path"] = "sparse_pc.ply"
    if split is not None:
        held_out = list(split.test)
        meta |= {"train_filenames": list(split.train), "val_filenames": held_out, "test_filenames": held_out}
    (directory / "transforms.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    if points is not None:
        write_points(directory / "sparse_pc.ply", points)


def read_capture(directory: Path) -> Capture:
    """Read a capture of undistorted photographs of one size, in the order of their names.

    Photographs may be of any kind (:mod:`l2o_splat.scenes.pixels`); those with an alpha channel are put on black.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The cameras have distortion, or an image cannot be read or differs in size from
            ``transforms.json``.
    """
    path = directory / "transforms.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; give a folder that nerfstudio-data can read.")
    meta = json.loads(path.read_text(encoding="utf-8"))
    frames = [{**meta, **frame} for frame in sorted(meta["frames"], key=lambda frame: frame["file_path"])]
    if any(frame.get(key) for frame in frames for key in ("k1", "k2", "k3", "k4", "p1", "p2")):
        raise ValueError(f"{path} has lens distortion; undistort the photographs first (l2o photos does).")
    if "ply_file_path" not in meta:
        raise FileNotFoundError(f"{path} names no points (ply_file_path); make the capture with its sparse points.")
    width, height = int(frames[0]["w"]), int(frames[0]["h"])
    other = next((frame for frame in frames if (int(frame["w"]), int(frame["h"])) != (width, height)), None)
    if other is not None:
        raise ValueError(
            f"{path} has photographs of {width} x {height} and of {other['w']} x {other['h']} pixels "
            f"({other['file_path']}); one size is needed here: leave the others out."
        )
    poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
    headers = [read_header(directory / frame["file_path"]) for frame in frames]
    turning = decide_turning(PosedHeaders(headers, [(width, height)] * len(frames), poses[:, :3, :3].numpy()))
    images = np.empty((len(frames), height, width, 3), np.float32)
    for frame, image, reason in zip(frames, images, turning, strict=True):
        pixels = on_black(read_photograph(directory / frame["file_path"], upright=reason.upright))
        if pixels.shape != image.shape:
            raise ValueError(
                f"{frame['file_path']} has {pixels.shape[1::-1]} pixels but {path} says {(width, height)}; "
                "all photographs of a capture need one size."
            )
        image[:] = pixels.astype(np.float32) / 255
    Ks = torch.eye(3).repeat(len(frames), 1, 1)
    for K, frame in zip(Ks, frames, strict=True):
        K[0, 0], K[1, 1], K[0, 2], K[1, 2] = (float(frame[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
    cameras = PinholeCameras(opencv_from_opengl(poses[:, :3]).float(), Ks, width, height)
    return Capture(Views(cameras, torch.from_numpy(images)), read_points(directory / meta["ply_file_path"]))


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A sibling directory to fill, which takes the name ``directory`` when the block ends without an error.

    A killed process leaves at most the hidden sibling behind.

    Raises:
        FileExistsError: ``directory`` already holds something, at the start or at the end.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} already holds something; choose another folder or remove it first.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:12]}.partial"
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(directory)
        except OSError as error:
            if not directory.exists():
                raise
            raise FileExistsError(f"{directory} was written by another process meanwhile; it was kept.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_points(path: Path, points: Points) -> None:
    """Write points to a binary PLY file: x, y, z, and red, green, blue in 8 bits."""
    columns = [*((axis, "<f4") for axis in "xyz"), *((colour, "u1") for colour in _COLOURS)]
    vertices = np.empty(len(points), columns)
    for i, axis in enumerate("xyz"):
        vertices[axis] = points.xyz[:, i].cpu().numpy()
    for i, colour in enumerate(_COLOURS):
        vertices[colour] = (points.rgb[:, i].clamp(0, 1) * 255).round().cpu().numpy()
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(path))


def read_points(path: Path) -> Points:
    """Read a PLY file of vertices with x, y, z and 8-bit red, green, blue.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        vertices = PlyData.read(str(path))["vertex"]
        xyz = np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float32)
        rgb = np.stack([vertices[colour] for colour in _COLOURS], axis=1).astype(np.float32) / 255
    except (PlyParseError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as points ({error}); a PLY with vertices x, y, z, red, green, blue is needed."
        ) from error
    return Points(torch.from_numpy(xyz), torch.from_numpy(rgb))
