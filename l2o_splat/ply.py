"""Reads and writes scenes in the PLY layout of the original 3DGS code, as ``ns-export gaussian-splat`` writes it.

One vertex is one Gaussian, in binary little-endian float32: ``x y z``, ``nx ny nz`` (zeros), ``f_dc_0..2``,
``f_rest_*`` (all bands of red, then of green, then of blue), ``opacity`` (logit), ``scale_0..2`` (natural logarithms),
``rot_0..3`` (quaternion w, x, y, z). Numbers are unactivated, as in :class:`~l2o_splat.gaussians.Gaussians`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyListProperty, PlyParseError

from l2o_splat.files import write_whole
from l2o_splat.gaussians import Gaussians


def read_ply(path: str | Path) -> Gaussians:
    """Read the Gaussians of a splat PLY, as float32 on the CPU. Other properties of its vertices are ignored.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the file is no PLY or is cut short, if its vertices lack the properties of a splat, or if numbers
            are NaN or infinite.
    """
    gaussians = parse_ply(path, str(path))
    _refuse_non_finite(gaussians, f"{path} holds", "export it again without these Gaussians")
    return gaussians


def parse_ply(file: str | Path | BinaryIO, name: str) -> Gaussians:
    """What :func:`read_ply` reads, with whatever numbers the file holds.

    Args:
        file: Its path, or the open file.
        name: The file in messages.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the file is no PLY or is cut short, or if its vertices lack the properties of a splat.
    """
    try:
        # Not mapped into memory, so that a file that is cut short is reported as such.
        vertices = PlyData.read(file, mmap=False)["vertex"]
    except MemoryError as error:
        raise ValueError(
            f"{name} cannot be read as a PLY with vertices (it declares more than fit in memory); export it again."
        ) from error
    except (PlyParseError, KeyError, ValueError) as error:
        # ValueError: the header is not ASCII, or declares an impossible number of vertices.
        raise ValueError(f"{name} cannot be read as a PLY with vertices ({error}); export it again.") from error
    numbers = {property.name for property in vertices.properties if not isinstance(property, PlyListProperty)}
    sh_bands, left_over = divmod(sum(number.startswith("f_rest_") for number in numbers), 3)
    columns = _columns(sh_bands)
    missing = [column for group in columns.values() for column in group if column not in numbers]
    if missing:
        raise ValueError(
            f"{name} is no Gaussian splat: its vertices lack {', '.join(missing)}; export with spherical harmonics, as "
            "`ns-export gaussian-splat` does by default."
        )
    if left_over or math.isqrt(sh_bands + 1) ** 2 != sh_bands + 1:
        raise ValueError(
            f"{name} is no Gaussian splat: it has {3 * sh_bands + left_over} properties f_rest_*, and a full SH degree "
            "has 0, 9, 24, 45 or 72; export it again."
        )
    fields = {
        field: torch.from_numpy(
            np.stack([np.asarray(vertices[column], np.float32) for column in group], axis=1)
            if group
            else np.zeros((vertices.count, 0), np.float32)
        )
        for field, group in columns.items()
    }
    fields["features_rest"] = fields["features_rest"].unflatten(1, (3, sh_bands)).mT.contiguous()
    return Gaussians(**fields)


def write_ply(gaussians: Gaussians, path: str | Path) -> None:
    """Write Gaussians as a splat PLY, in float32.

    The file appears whole or not at all: if writing fails, a file that was there before stays as it was.

    Raises:
        OSError: If the file cannot be written (no such folder, no permission, a full disk).
        ValueError: If numbers are NaN or infinite in float32, since viewers and trainings fail on them far from here.
    """
    path = Path(path)
    gaussians = gaussians.detach().to("cpu", torch.float32)
    _refuse_non_finite(gaussians, f"{path} is not written: the Gaussians hold", "remove these Gaussians first")
    values = dict(gaussians.items()) | {
        "normals": torch.zeros_like(gaussians.means),
        "features_rest": gaussians.features_rest.mT.flatten(1),
    }
    columns = _columns(gaussians.features_rest.shape[1])
    order = ("means", "normals", "features_dc", "features_rest", "opacities", "scales", "quats")
    names = [name for field in order for name in columns.get(field, ("nx", "ny", "nz"))]
    rows = torch.cat([values[field] for field in order], dim=1).numpy().astype("<f4", order="C")
    vertices = PlyElement.describe(rows.view([(name, "<f4") for name in names])[:, 0], "vertex")
    try:
        write_whole(path, PlyData([vertices], byte_order="<").write)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"{path} cannot be written ({reason}); choose a folder that is writable and has space."
        ) from error


def _columns(sh_bands: int) -> dict[str, list[str]]:
    """Names of the properties that hold each field; those of ``features_rest`` run channel by channel."""
    return {
        "means": ["x", "y", "z"],
        "scales": [f"scale_{i}" for i in range(3)],
        "quats": [f"rot_{i}" for i in range(4)],
        "opacities": ["opacity"],
        "features_dc": [f"f_dc_{i}" for i in range(3)],
        "features_rest": [f"f_rest_{i}" for i in range(3 * sh_bands)],
    }


def _refuse_non_finite(gaussians: Gaussians, beginning: str, remedy: str) -> None:
    if counts := gaussians.count_non_finite():
        found = ", ".join(f"{count} in {field}" for field, count in counts.items())
        raise ValueError(f"{beginning} NaN or infinite numbers ({found}); {remedy}.")
