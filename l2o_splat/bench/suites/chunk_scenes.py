"""Scenes of a folder of chunks (RealEstate10K, ACID, DL3DV as pixelSplat, DepthSplat and ReSplat keep them)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.posed import Photographs, PosedScene
from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.folder import INDEX, ChunkFolder


def find_chunk_scenes(folder: Path) -> dict[str, Callable[[], PosedScene]]:
    """What reads each scene, by key; from the subfolder ``test`` if there is one.

    Raises:
        BenchError: If there is no index of chunks, or it is damaged.
    """
    test = folder / "test"
    try:
        chunks = ChunkFolder(test if (test / INDEX).is_file() else folder)
    except ChunkError as error:
        raise BenchError(str(error)) from error
    return {key: partial(_read, chunks, key) for key in chunks.keys}


def _read(chunks: ChunkFolder, key: str) -> PosedScene:
    try:
        scene = chunks.scene(key)
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
    )
