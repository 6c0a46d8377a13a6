"""Splat files: PLY, which holds a scene exactly, and SPZ and SOG, which are a fifth of its size and smaller.

Scene files (``.safetensors``, :mod:`l2o_splat.scene_file`) hold tensors as they are, for programs.

SPZ (Niantic) and SOG (PlayCanvas) quantise every number; gaussforge writes and reads both.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import torch

from l2o_splat.files import write_whole
from l2o_splat.gaussians import Gaussians
from l2o_splat.ply import parse_ply, read_ply, write_ply
from l2o_splat.scene_file import SUFFIX, read_scene, write_scene
from l2o_splat.sharing.errors import SharingError

SUFFIXES = (".ply", ".spz", ".sog", SUFFIX)
"""Names of files that can be written and read."""

_HIGHEST_DEGREE = 3
"""Of the spherical harmonics that SPZ and SOG hold."""
_SPZ_STEP, _SPZ_REACH = 2.0**-12, 2.0**11
"""SPZ holds coordinates in multiples of the one, below the other."""
_LEAST_OPACITY = 0.5 / 255
"""SPZ and SOG hold opacities in 8 bits; 0 and 1, which have no logit, are read as half a step away from it."""


def write_splat(gaussians: Gaussians, path: str | Path) -> None:
    """Write Gaussians in the format that the file's name ends with: ``.ply``, ``.spz``, ``.sog`` or ``.safetensors``.

    The file appears whole or not at all. SOG holds Gaussians in an order of its own, and takes about a minute for
    100 000 Gaussians with all their spherical harmonics.

    Raises:
        OSError: If the file cannot be written.
        SharingError: If the format is another one, or cannot hold the scene.
        ValueError: If numbers are NaN or infinite, from :func:`~l2o_splat.ply.write_ply`.
    """
    path = Path(path)
    _check_suffix(path)
    if path.suffix == ".ply":
        write_ply(gaussians, path)
    elif path.suffix == SUFFIX:
        write_scene(path, gaussians)
    else:
        content = encoded(gaussians, path.suffix)
        write_whole(path, lambda beside: beside.write_bytes(content))


def read_splat(path: str | Path) -> Gaussians:
    """Read the Gaussians of a ``.ply``, ``.spz``, ``.sog`` or ``.safetensors`` file, as float32 on the CPU.

    Raises:
        OSError: If the file cannot be opened.
        SharingError: If the format is another one, or the file is broken.
        ValueError: From :func:`~l2o_splat.ply.read_ply`.
    """
    path = Path(path)
    _check_suffix(path)
    if path.suffix == ".ply":
        return read_ply(path)
    if path.suffix == SUFFIX:
        return read_scene(path).gaussians.to(torch.float32)
    from gaussforge import GaussForge

    # By way of a PLY: gaussforge 0.6 cannot hand over a scene without spherical harmonics otherwise.
    result = GaussForge().convert(path.read_bytes(), path.suffix[1:], "ply")
    if not result.get("data"):
        raise SharingError(f"{path} cannot be read ({result.get('error', 'it holds no scene')}); export it again.")
    gaussians = parse_ply(io.BytesIO(result["data"]), str(path))
    most = math.log(1 / _LEAST_OPACITY - 1)
    return replace(gaussians, opacities=gaussians.opacities.clamp(-most, most))


def encoded(gaussians: Gaussians, suffix: str) -> bytes:
    """The content of an ``.spz`` or ``.sog`` file.

    Raises:
        SharingError: If the format cannot hold the scene.
    """
    from gaussforge import GaussForge

    gaussians = gaussians.detach().to("cpu", torch.float32)
    _check_scene(gaussians, suffix)
    # gaussforge takes the length of quaternions for 1.
    fields = dict(gaussians.items()) | {"quats": torch.nn.functional.normalize(gaussians.quats, dim=1)}
    scene = {key: fields[name].contiguous().numpy().tobytes() for name, key in _KEYS.items()}
    scene |= {"numPoints": len(gaussians), "extras": {}, "meta": {"shDegree": gaussians.sh_degree}}
    result = GaussForge().write(scene, suffix[1:])
    if "error" in result:
        raise SharingError(f"The scene cannot be written as {suffix} ({result['error']}); write a .ply instead.")
    return result["data"]


_KEYS = {
    "means": "positions",
    "scales": "scales",
    "quats": "rotations",
    "opacities": "alphas",
    "features_dc": "colors",
    "features_rest": "sh",
}
"""Names that gaussforge has for the fields, which hold the same numbers as here."""


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise SharingError(f"{path} is not called *{', *'.join(SUFFIXES)}; the name tells the format.")


def _check_scene(gaussians: Gaussians, suffix: str) -> None:
    if not len(gaussians) or not gaussians.all_finite():
        raise SharingError(
            f"The scene holds {len(gaussians)} Gaussians, with NaN or infinite numbers in "
            f"{', '.join(gaussians.count_non_finite()) or 'none'}; at least one and finite numbers are needed."
        )
    if gaussians.sh_degree > _HIGHEST_DEGREE:
        raise SharingError(
            f"The scene has spherical harmonics of degree {gaussians.sh_degree}, and {suffix} holds "
            f"{_HIGHEST_DEGREE} at most; cut the others off, or write a .ply."
        )
    if suffix == ".spz":
        farthest, size = float(gaussians.means.abs().max()), float(gaussians.scales.median().exp())
        if farthest >= _SPZ_REACH or size < _SPZ_STEP:
            raise SharingError(
                f"The scene reaches to {farthest:.3g} and its median Gaussian is {size:.3g} wide (scene units), and "
                f".spz holds coordinates below {_SPZ_REACH:.0f} in multiples of {_SPZ_STEP:.2g}; write a .sog or a "
                ".ply."
            )
