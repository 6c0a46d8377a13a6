"""A COLMAP model on disk, binary or text: cameras, poses and points, without COLMAP itself.

The layout of both kinds is COLMAP's (colmap.github.io/format.html).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt8

from l2o_splat.errors import L2OError

_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV")
"""Names of the camera models in the order of their numbers."""
_PARAMETERS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4"),
}
"""Parameters of the models that are read, in their order."""


class ColmapModelError(L2OError, ValueError):
    """A model is missing, damaged, or has cameras of an unknown kind; the message names the file."""


@dataclass(frozen=True)
class ColmapCamera:
    """The lens of some photographs."""

    model: str
    width: int
    """Pixels."""
    height: int
    parameters: dict[str, float]
    """``fl_x``, ``fl_y``, ``cx``, ``cy`` in pixels (the centre of the first pixel is 0.5), and distortion by the names
    that OpenCV and nerfstudio give it."""

    @property
    def intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """Pixels."""
        values = self.parameters
        return np.array([[values["fl_x"], 0, values["cx"]], [0, values["fl_y"], values["cy"]], [0, 0, 1.0]])

    @property
    def distortion(self) -> dict[str, float]:
        """Coefficients that are not zero."""
        return {name: value for name, value in self.parameters.items() if name[0] in "kp" and value}


@dataclass(frozen=True)
class ColmapModel:
    """A model with its photographs in the order of their names."""

    names: list[str]
    """Paths in the folder of photographs."""
    cameras: list[ColmapCamera]
    """The camera of each photograph."""
    viewmats: Float[np.ndarray, "v 4 4"]
    """Camera-from-world, OpenCV axes, units of the model."""
    xyz: Float[np.ndarray, "p 3"]
    rgb: UInt8[np.ndarray, "p 3"]


def holds_model(folder: Path) -> bool:
    """Whether cameras and images of a model lie in a folder."""
    return any(
        all((folder / f"{name}.{suffix}").is_file() for name in ("cameras", "images")) for suffix in ("bin", "txt")
    )


def read_colmap_model(folder: Path) -> ColmapModel:
    """Read a model; binary files if there are both kinds.

    Args:
        folder: Holds ``cameras``, ``images`` and, unless there are no points, ``points3D``, as ``.bin`` or ``.txt``.

    Raises:
        ColmapModelError: If files are missing or damaged, or a camera has another model than those that are read.
    """
    if not holds_model(folder):
        raise ColmapModelError(f"There are no cameras and images (.bin or .txt) of a COLMAP model in {folder}.")
    binary = all((folder / f"{name}.bin").is_file() for name in ("cameras", "images"))
    suffix = "bin" if binary else "txt"
    read_cameras, read_images, read_points = (
        (_binary_cameras, _binary_images, _binary_points) if binary else (_text_cameras, _text_images, _text_points)
    )
    cameras = _whole(folder / f"cameras.{suffix}", lambda file: dict(read_cameras(file)))
    images = sorted(_whole(folder / f"images.{suffix}", lambda file: list(read_images(file))))
    points_file = folder / f"points3D.{suffix}"
    points = _whole(points_file, lambda file: list(read_points(file))) if points_file.is_file() else []
    unknown = sorted({camera for _, camera, *_ in images} - cameras.keys())
    if unknown or not images:
        found = f"names camera {unknown[0]}, which cameras.{suffix} lacks" if unknown else "lists no photographs"
        raise ColmapModelError(f"{folder / f'images.{suffix}'} {found}; copy the model again.")
    return ColmapModel(
        names=[name for name, *_ in images],
        cameras=[cameras[camera] for _, camera, *_ in images],
        viewmats=np.stack([_viewmat(quaternion, shift) for _, _, quaternion, shift in images]),
        xyz=np.array([xyz for xyz, _ in points], np.float64).reshape(-1, 3),
        rgb=np.array([rgb for _, rgb in points], np.uint8).reshape(-1, 3),
    )


def _whole(path: Path, read):
    try:
        with path.open("rb") as file:
            return read(file)
    except ColmapModelError as error:
        raise ColmapModelError(f"{path} {error}") from error
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise ColmapModelError(f"{path} is cut short or damaged ({error}); copy the COLMAP model again.") from error


def _camera(model: str, width: int, height: int, values: tuple[float, ...]) -> ColmapCamera:
    named = dict(zip(_PARAMETERS[model], values, strict=True))
    if "f" in named:
        named["fl_x"] = named["fl_y"] = named.pop("f")
    return ColmapCamera(model, width, height, named)


def _check_model(model: str) -> str:
    if model not in _PARAMETERS:
        raise ColmapModelError(
            f"has a camera of the model {model}; one of {', '.join(_PARAMETERS)} is needed: undistort the photographs "
            "with `colmap image_undistorter`."
        )
    return model


def _viewmat(quaternion: tuple[float, ...], shift: tuple[float, ...]) -> Float[np.ndarray, "4 4"]:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    viewmat = np.eye(4)
    viewmat[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    viewmat[:3, 3] = shift
    return viewmat


def _take(file: BinaryIO, layout: str) -> tuple:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


def _binary_cameras(file: BinaryIO) -> Iterator[tuple[int, ColmapCamera]]:
    for _ in range(_take(file, "Q")[0]):
        number, kind, width, height = _take(file, "iiQQ")
        model = _check_model(_MODELS[kind] if 0 <= kind < len(_MODELS) else f"number {kind}")
        yield number, _camera(model, width, height, _take(file, "d" * len(_PARAMETERS[model])))


def _binary_images(file: BinaryIO) -> Iterator[tuple]:
    for _ in range(_take(file, "Q")[0]):
        _, *pose, camera = _take(file, "i7di")
        name = bytearray()
        while (letter := _take(file, "c")[0]) != b"\x00":
            name += letter
        file.seek(24 * _take(file, "Q")[0], 1)  # Its features.
        yield name.decode("utf-8"), camera, tuple(pose[:4]), tuple(pose[4:])


def _binary_points(file: BinaryIO) -> Iterator[tuple]:
    for _ in range(_take(file, "Q")[0]):
        _, x, y, z, red, green, blue, _ = _take(file, "Q3d3Bd")
        file.seek(8 * _take(file, "Q")[0], 1)  # Where it is seen.
        yield (x, y, z), (red, green, blue)


def _lines(file: BinaryIO) -> Iterator[list[str]]:
    for line in file.read().decode("utf-8").splitlines():
        if not line.startswith("#"):
            yield line.split()


def _text_cameras(file: BinaryIO) -> Iterator[tuple[int, ColmapCamera]]:
    for words in _lines(file):
        if words:
            model = _check_model(words[1])
            yield int(words[0]), _camera(model, int(words[2]), int(words[3]), tuple(map(float, words[4:])))


def _text_images(file: BinaryIO) -> Iterator[tuple]:
    # Each photograph has two lines, the second of which lists its features and may be empty.
    for number, words in enumerate(_lines(file)):
        if number % 2 == 0 and words:
            pose = tuple(map(float, words[1:8]))
            yield " ".join(words[9:]), int(words[8]), pose[:4], pose[4:]


def _text_points(file: BinaryIO) -> Iterator[tuple]:
    for words in _lines(file):
        if words:
            yield tuple(map(float, words[1:4])), tuple(map(int, words[4:7]))
