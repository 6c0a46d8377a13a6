"""Points that a scene starts from: read from a PLY, and freed of those that would spoil it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Num, UInt8
from nerfstudio.utils.rich_utils import CONSOLE
from plyfile import PlyData, PlyListProperty, PlyParseError

from l2o_splat.plugin.capture_checks import CaptureError

FAR_OUT = 1000
"""Points this many times farther from the middle than the median point are left out: as wide as they are apart, their
Gaussians would cover the scene."""
OTHER_SCALE = 1e6
"""Distance of the points from the cameras, in units of the cameras' own distances, from which on nothing fits."""
FEWEST_DISTINCT = 4
"""Points that a Gaussian's size is measured from: itself and three neighbours."""
GRAY = 128
NARROW_BASE = 0.01
"""Reach of the cameras, as a share of the distance to the points, below which a capture is nearly a panorama."""


def read_ply_points(path: Path) -> tuple[Float[np.ndarray, "p 3"], UInt8[np.ndarray, "p 3"]] | None:
    """Positions (float64) and colours of a PLY's vertices, gray if it has none; None if it has no vertices.

    Not read by Open3D as in nerfstudio, which fills up with zeros what is missing from a file.

    Raises:
        CaptureError: If the file is missing, no PLY, cut short, or without x, y, z.
    """
    named = f"{path}, which the capture names as its points,"
    if not path.is_file():
        raise CaptureError(f"{named} does not exist; put it there, or take 'ply_file_path' out of the capture.")
    try:
        ply = PlyData.read(path, mmap=False)
    except (PlyParseError, UnicodeDecodeError) as error:
        raise CaptureError(
            f"{named} is no PLY, or is cut short ({error}); write it again, or take 'ply_file_path' out of the capture."
        ) from error
    if "vertex" not in ply:
        raise CaptureError(f"{named} lacks vertices; write it again with x, y, z for each point.")
    vertices = ply["vertex"]
    numbers = {property.name for property in vertices.properties if not isinstance(property, PlyListProperty)}
    missing = [axis for axis in "xyz" if axis not in numbers]
    if missing:
        raise CaptureError(
            f"{named} lacks the properties {', '.join(missing)} of its vertices; write it again with x, y, z for each "
            "point."
        )
    if vertices.count == 0:
        CONSOLE.log(f"[bold yellow]{named} holds none.")
        return None
    xyz = np.stack([np.asarray(vertices[axis], np.float64) for axis in "xyz"], axis=1)
    if not numbers >= {"red", "green", "blue"}:
        CONSOLE.log(f"{path} holds no colours, so that its {len(xyz)} points start gray.")
        return xyz, np.full((len(xyz), 3), GRAY, np.uint8)
    return xyz, _colours(np.stack([vertices[channel] for channel in ("red", "green", "blue")], axis=1))


def _colours(values: Num[np.ndarray, "p 3"]) -> UInt8[np.ndarray, "p 3"]:
    """Colours of 8 bits from those of a file: integers of any width, or floating point up to 1 or 255."""
    largest = 255.0
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        largest = 1.0 if values.max() <= 1 else 255.0
    elif values.dtype.itemsize > 1 and values.max() > 255:
        largest = 65535.0
    # Rounded down as nerfstudio does, which makes 1/255 less of some.
    return (values / largest * 255).clip(0, 255).astype(np.uint8)


def usable_points(metadata: dict[str, Any], centres: torch.Tensor) -> dict[str, Any]:
    """Metadata of a dataparser without points that are not finite, far out, or hardly distinct; says how many.

    Args:
        metadata: Of the outputs; everything named ``points3D_*`` has a row per point.
        centres: ``[v, 3]`` centres of the cameras, scene units.
    """
    xyz = metadata.get("points3D_xyz")
    if xyz is None or len(xyz) == 0:
        return metadata
    metadata = _keep(metadata, torch.isfinite(xyz).all(dim=1), "NaN or infinite coordinates")
    xyz = metadata["points3D_xyz"].double()
    if len(xyz):
        _check_scale(xyz, centres.double())
        distances = (xyz - xyz.median(dim=0).values).norm(dim=1)
        cameras = (centres.double() - xyz.median(dim=0).values).norm(dim=1)
        limit = FAR_OUT * max(float(distances.median()), float(cameras.max()))
        metadata = _keep(metadata, distances <= limit, f"more than {FAR_OUT} times as far out as the median point")
    return _distinct(metadata)


def _check_scale(xyz: Float[torch.Tensor, "p 3"], centres: Float[torch.Tensor, "v 3"]) -> None:
    """Refuse points that have another scale than the cameras.

    Raises:
        CaptureError: If they are so far away that the cameras could as well be in one place.
    """
    middle = centres.mean(dim=0)
    reach, away = (float((places - middle).norm(dim=1).median()) for places in (centres, xyz))
    if away > OTHER_SCALE * reach:
        raise CaptureError(
            f"The {len(xyz)} points are {away:.2g} away from the cameras, which are {reach:.2g} away from each other; "
            "points and cameras must have the same unit: check applied_scale and the file of the points, or start from "
            "random points with --pipeline.initialization.source random."
        )


def warn_of_narrow_base(metadata: dict[str, Any], centres: Float[torch.Tensor, "v 3"]) -> None:
    """Say so if the cameras are nearly in one place compared with how far away the points are."""
    xyz = metadata.get("points3D_xyz")
    if xyz is None or len(xyz) == 0:
        return
    middle = centres.double().mean(dim=0)
    reach = float((centres.double() - middle).norm(dim=1).max())
    away = float((xyz.double() - middle).norm(dim=1).median())
    if reach < NARROW_BASE * away:
        CONSOLE.log(
            f"[bold yellow]All {len(centres)} training cameras are nearly in one place: they reach {reach:.2g} from "
            f"their middle, and the points are {away:.2g} away; depth hardly shows, so add photographs "
            "from other places."
        )


def _distinct(metadata: dict[str, Any]) -> dict[str, Any]:
    xyz = metadata["points3D_xyz"].numpy()
    _, first = np.unique(xyz, axis=0, return_index=True)
    if 2 * len(first) >= len(xyz) and len(first) >= FEWEST_DISTINCT:
        return metadata
    kept = torch.zeros(len(xyz), dtype=torch.bool)
    if len(first) < FEWEST_DISTINCT:
        return _keep(metadata, kept, f"in only {len(first)} places, and {FEWEST_DISTINCT} are needed")
    kept[torch.from_numpy(first)] = True
    return _keep(metadata, kept, "in the place of another one")


def _keep(metadata: dict[str, Any], kept: torch.Tensor, fault: str) -> dict[str, Any]:
    if kept.all():
        return metadata
    CONSOLE.log(
        f"[bold yellow]{int((~kept).sum())} of {len(kept)} structure-from-motion points are left out: they are or have "
        f"{fault}."
    )
    return with_points(metadata, kept)


def with_points(metadata: dict[str, Any], kept: Bool[torch.Tensor, " p"]) -> dict[str, Any]:
    """Metadata of a dataparser with some of its points."""
    return {
        name: value[kept] if name.startswith("points3D_") and len(value) == len(kept) else value
        for name, value in metadata.items()
    }
