"""Scenes of a folder of chunks (RealEstate10K, ACID, DL3DV as pixelSplat, DepthSplat and ReSplat keep them)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.posed import Photographs, PosedScene
from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.folder import INDEX, ChunkFolder
from l2o_splat.scenes.chunks.points import find_points, read_scene_points

POINTS = "points"
"""Folder with points of the scenes, beside the chunks or one folder higher."""


def find_chunk_scenes(folder: Path) -> dict[str, Callable[[], PosedScene]]:
    """What reads each scene, by key; from the subfolder ``test`` if there is one.

    Raises:
        BenchError: If there is no index of chunks, or it is damaged.
    """
    try:
        chunks = ChunkFolder(_chunks_in(folder))
    except ChunkError as error:
        raise BenchError(str(error)) from error
    return {key: partial(_read, chunks, folder, key) for key in chunks.keys}


def has_points(folder: Path, keys: Iterable[str]) -> bool:
    """Whether there are points for all of these scenes."""
    return all(_points_folder(folder, key) is not None for key in keys)


def _chunks_in(folder: Path) -> Path:
    test = folder / "test"
    return test if (test / INDEX).is_file() else folder


def _points_folder(folder: Path, key: str) -> Path | None:
    places = (_chunks_in(folder) / POINTS, folder / POINTS)
    return next((place for place in places if find_points(place, key) is not None), None)


def _read(chunks: ChunkFolder, folder: Path, key: str) -> PosedScene:
    place = _points_folder(folder, key)
    try:
        scene = chunks.scene(key)
        points = None if place is None else read_scene_points(place, key, scene.cameras)
    except ChunkError as error:
        raise BenchError(str(error)) from error

    def photographs(indices) -> list[np.ndarray]:
        try:
            images = scene.decode(indices).images
        except ChunkError as error:
            raise BenchError(str(error)) from error
        return [(255 * image).round().byte().numpy() for image in images]

    cameras = scene.cameras
    return PosedScene(
        names=[f"{frame:05d}.png" for frame in range(len(cameras))],
        viewmats=cameras.viewmats.double().numpy(),
        Ks=cameras.Ks.double().numpy(),
        sizes=[(cameras.width, cameras.height)] * len(cameras),
        photographs=Photographs(photographs),
        xyz=None if points is None else points.xyz.double().numpy(),
        rgb=None if points is None else (255 * points.rgb).round().byte().numpy(),
    )
