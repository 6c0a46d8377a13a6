"""Sparse points of scenes in chunks, which the chunks themselves do not hold: a folder beside them does."""

from __future__ import annotations

import struct
from pathlib import Path

import torch

from l2o_splat.scenes.capture import Points, read_points
from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.views import PinholeCameras

PLACES = ("{key}.ply", "{key}/sparse_pc.ply", "{key}/sparse/0/points3D.bin", "{key}/sparse/0/points3D.txt")
"""Where the points of a scene may lie in the folder, in the order in which they are looked for."""
LEAST_SEEN, TRIED = 0.5, 1000
"""Least share of the points that some frame must see, and how many of them are looked at. Structure from motion finds
points that at least two frames see; in another world frame most would lie beside all of them."""


def find_points(folder: Path, key: str) -> Path | None:
    """The file with the points of a scene, see :data:`PLACES`; None if there is none."""
    places = (folder / place.format(key=key) for place in PLACES)
    return next((path for path in places if path.is_file()), None)


def read_scene_points(folder: Path, key: str, cameras: PinholeCameras) -> Points:
    """The points of a scene, a PLY file or a COLMAP model.

    Args:
        folder: Holds the points of all scenes.
        key: Key of the scene.
        cameras: All of its frames, which the points are compared with.

    Raises:
        ChunkError: There are none, the file is damaged, or the frames do not see them.
    """
    path = find_points(folder, key)
    if path is None:
        wanted = ", ".join(place.format(key=key) for place in PLACES)
        raise ChunkError(f"{folder} holds no points of scene {key}; one of {wanted} is needed.")
    readers = {".ply": read_points, ".bin": _of_colmap_binary, ".txt": _of_colmap_text}
    try:
        points = readers[path.suffix](path)
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise ChunkError(f"The points {path} cannot be read ({error}); copy or make them again.") from error
    if not len(points) or not torch.isfinite(points.xyz).all():
        found = "hold NaN or infinite numbers" if len(points) else "are none"
        raise ChunkError(f"The points {path} {found}; make them again or leave the scene out.")
    _check_seen(points, cameras, path)
    return points


def _check_seen(points: Points, cameras: PinholeCameras, path: Path) -> None:
    some = points.xyz[:: -(-len(points) // TRIED)]
    share = float(cameras.inside(*cameras.project(some)).any(dim=0).float().mean())
    if share < LEAST_SEEN:
        raise ChunkError(
            f"The frames of the scene see {share:.0%} of the points {path}, and at least {LEAST_SEEN:.0%} are needed; "
            "bring them to the world frame of the chunk."
        )


def _of_colmap_binary(path: Path) -> Points:
    """``points3D.bin``: their number, then of each its id, xyz, rgb, error, and a track of pairs of numbers."""
    data = path.read_bytes()
    (count,), offset = struct.unpack_from("<Q", data), 8
    xyz, rgb = [], []
    for _ in range(count):
        _, *place = struct.unpack_from("<Q3d", data, offset)
        xyz.append(place)
        rgb.append(tuple(data[offset + 32 : offset + 35]))
        (track,) = struct.unpack_from("<Q", data, offset + 43)
        offset += 51 + 8 * track
    if offset != len(data):
        raise ValueError(f"it has {len(data)} bytes and its {count} points need {offset}")
    return _points(xyz, rgb)


def _of_colmap_text(path: Path) -> Points:
    """``points3D.txt``: a line for each point with its id, xyz, rgb, error and track."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return _points([[*map(float, row[1:4])] for row in rows], [[*map(int, row[4:7])] for row in rows])


def _points(xyz: list, rgb: list) -> Points:
    return Points(
        torch.tensor(xyz, dtype=torch.float32).reshape(-1, 3),
        torch.tensor(rgb, dtype=torch.float32).reshape(-1, 3) / 255,
    )
