"""Points that a scene starts from: read from a PLY, and freed of those that would spoil it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.plugin.capture_checks import CaptureError

FAR_OUT = 1000
"""Points this many times farther from the middle than the median point are left out: as wide as they are apart, their
Gaussians would cover the scene."""
FEWEST_DISTINCT = 4
"""Points that a Gaussian's size is measured from: itself and three neighbours."""
GRAY = 128


def read_ply_points(path: Path) -> tuple[Float[np.ndarray, "p 3"], UInt8[np.ndarray, "p 3"]] | None:
    """Positions (float64) and colours of a PLY's vertices, gray if it has none; None if it has no vertices.

    Raises:
        CaptureError: If the file is missing, no PLY, cut short, or without x, y, z.
    """
    expected = _check_header(path)
    import open3d  # Slow to import, and nerfstudio reads PLY files with it.

    cloud = open3d.io.read_point_cloud(str(path))
    if len(cloud.points) < expected:
        raise CaptureError(
            f"{path}, which the capture names as its points, is cut short: it announces {expected} points, and only "
            f"{len(cloud.points)} could be read; write it again."
        )
    if expected == 0:
        CONSOLE.log(f"[bold yellow]{path}, which the capture names as its points, holds none.")
        return None
    if not cloud.has_colors():
        CONSOLE.log(f"{path} holds no colours, so that its {expected} points start gray.")
        return np.asarray(cloud.points), np.full((expected, 3), GRAY, np.uint8)
    return np.asarray(cloud.points), (np.asarray(cloud.colors) * 255).astype(np.uint8)


def _check_header(path: Path) -> int:
    """Number of vertices that a PLY announces."""
    named = f"{path}, which the capture names as its points,"
    if not path.is_file():
        raise CaptureError(f"{named} does not exist; put it there, or take 'ply_file_path' out of the capture.")
    with path.open("rb") as file:
        header = file.read(1 << 16)
    lines = header.partition(b"end_header")[0].decode("latin-1").splitlines()
    if not header.startswith(b"ply") or b"end_header" not in header:
        raise CaptureError(
            f"{named} is no PLY (a header from 'ply' to 'end_header' is missing); write it again, or take "
            "'ply_file_path' out of the capture."
        )
    count, properties, element = None, set(), None
    for words in map(str.split, lines):
        if words[:1] == ["element"] and len(words) == 3:
            element = words[1]
            if element == "vertex" and words[2].isdigit():
                count = int(words[2])
        elif words[:1] == ["property"] and element == "vertex":
            properties.add(words[-1])
    missing = [axis for axis in "xyz" if axis not in properties]
    if count is None or missing:
        lacks = "vertices" if count is None else f"the properties {', '.join(missing)} of its vertices"
        raise CaptureError(f"{named} lacks {lacks}; write it again with x, y, z for each point.")
    return count


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
        distances = (xyz - xyz.median(dim=0).values).norm(dim=1)
        limit = FAR_OUT * max(
            float(distances.median()), float((centres.double() - xyz.median(dim=0).values).norm(dim=1).max())
        )
        metadata = _keep(metadata, distances <= limit, f"more than {FAR_OUT} times as far out as the median point")
    return _distinct(metadata)


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
    return {
        name: value[kept] if name.startswith("points3D_") and len(value) == len(kept) else value
        for name, value in metadata.items()
    }
