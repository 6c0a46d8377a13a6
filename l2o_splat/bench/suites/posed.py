"""A scene of a data set as it lies in the user's folder: cameras and photographs, before any choice of views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


@dataclass(frozen=True)
class PosedScene:
    """Posed photographs in the order of their names."""

    names: list[str]
    """Names of the photographs, sorted."""
    viewmats: Float[np.ndarray, "v 4 4"]
    """Camera-from-world, OpenCV axes, units of the data set."""
    Ks: Float[np.ndarray, "v 3 3"]
    """Pixels of ``sizes``."""
    sizes: list[tuple[int, int]]
    """Width and height that the cameras are for, pixels."""
    photographs: Photographs
    distortions: list[dict[str, float]] = field(default_factory=list)
    """Lens distortion of each photograph by OpenCV's names; empty if there is none."""
    xyz: Float[np.ndarray, "p 3"] | None = None
    """Points in the world frame; None if the data set has none."""
    rgb: UInt8[np.ndarray, "p 3"] | None = None
    reduced_by: int = 1
    """Factor by which the sides of the photographs are reduced already."""
    test_names: frozenset[str] = frozenset()
    """Photographs that the data set itself holds out."""

    @property
    def centres(self) -> Float[np.ndarray, "v 3"]:
        """Camera centres, units of the data set."""
        return -np.einsum("vji,vj->vi", self.viewmats[:, :3, :3], self.viewmats[:, :3, 3])


@dataclass(frozen=True)
class Photographs:
    """How the photographs of a scene are read."""

    read: Callable[[Sequence[int]], list[UInt8[np.ndarray, "h w 3"]]]
    """Photographs by index, sRGB."""
    files: list[Path] | None = None
    """The files, if each photograph is one."""

    @classmethod
    def of_files(cls, files: Sequence[Path]) -> Photographs:
        """Photographs in files."""
        return cls(lambda indices: [_read(files[index]) for index in indices], list(files))


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of a photograph from its header, pixels."""
    with Image.open(file) as image:
        return image.size


def _read(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
