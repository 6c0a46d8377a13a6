"""Training scenes from chunks: RealEstate10K and DL3DV as pixelSplat and its successors prepared them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch

from l2o_splat.scenes.capture import Points, SampledCapture
from l2o_splat.scenes.chunks.errors import ChunkError, TooFewFramesError
from l2o_splat.scenes.chunks.folder import ChunkFolder
from l2o_splat.scenes.chunks.points import find_points, read_scene_points
from l2o_splat.scenes.chunks.scene import ChunkScene
from l2o_splat.scenes.chunks.view_index import ViewIndex, read_view_index
from l2o_splat.scenes.chunks.view_samplers import bounded_views, indexed_views, whole_scene_views
from l2o_splat.training.chunk_options import ChunkOptions
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.sources import Source

logger = logging.getLogger(__name__)

# First words of the seeds of the two kinds of draws, so that no two of them share a stream.
_ORDER, _VIEWS = 1, 2


@dataclass(frozen=True)
class ChunkSource(Source):
    """Scenes of a folder of chunks, with views drawn anew at every visit.

    Every scene comes once in a pass. The order is shuffled anew for each pass: first the chunks, then the scenes in
    each, so that scenes in a row come from one file. A scene that is damaged, or too short for the views, is passed
    over: its index gives the next usable one of the pass. A damaged one is named once in the log.
    """

    options: ChunkOptions
    """Folder, size, views."""
    seed: int = 0
    """Another seed gives another order and other views."""
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def capture(self, index: int) -> SampledCapture:
        """The views of the scene of an index; its points are empty if the options name no folder of points.

        Raises:
            ChunkError: The folder has no usable index.
            TrainingError: No folder is named, there are no points or views for its scenes, or all of them are damaged
                or too short.
        """
        reason: ChunkError | None = None
        number, position = divmod(index, len(self._keys))
        order = self._order(number)
        for attempt in range(len(order)):
            key = order[(position + attempt) % len(order)]
            try:
                return self._draw(key, index, np.random.default_rng([_VIEWS, self.seed, index, attempt]))
            except TooFewFramesError as error:
                reason = reason or error
            except ChunkError as error:
                reason = reason or error
                if key not in self._told:
                    self._told.add(key)
                    logger.warning("A scene is passed over: %s", error)
        raise TrainingError(
            f"No scene of {self.options.folder} can be used; for the first of them: {reason}"
        ) from reason

    def prepare(self) -> None:
        """Find out early whether the folder can be used; errors as of :meth:`capture`."""
        self._keys  # noqa: B018 - reads the indices

    def key(self, index: int) -> str:
        """Key of the scene whose turn it is at an index."""
        number, position = divmod(index, len(self._keys))
        return self._order(number)[position]

    def _draw(self, key: str, index: int, rng: np.random.Generator) -> SampledCapture:
        scene = self._folder.scene(key)
        views = self._views(scene, index, rng)
        frames = sorted({*views.context, *views.target})
        points = Points(torch.zeros(0, 3), torch.zeros(0, 3))
        if self.options.points is not None:
            points = read_scene_points(self.options.points, key, scene.cameras)
        place = {frame: i for i, frame in enumerate(frames)}
        context, target = (tuple(place[frame] for frame in part) for part in (views.context, views.target))
        return SampledCapture(scene.decode(frames, self.options.size), points, context, target)

    def _views(self, scene: ChunkScene, index: int, rng: np.random.Generator) -> ViewIndex:
        if self.options.sampler == "evaluation":
            return indexed_views(self._view_index[scene.key], scene.num_frames, scene.key)
        centres = scene.cameras.centres.double().numpy()
        num_context, num_target = self.options.context_views, self.options.target_views
        if self.options.sampler == "whole-scene":
            return whole_scene_views(centres, num_context, num_target, rng)
        return bounded_views(centres, num_context, num_target, self.options.frame_gap.at(index), rng)

    @cached_property
    def _folder(self) -> ChunkFolder:
        if self.options.folder is None:
            raise TrainingError("No folder of chunks is named; give --data.chunks.folder.")
        return ChunkFolder(self.options.folder)

    @cached_property
    def _view_index(self) -> dict[str, ViewIndex]:
        if self.options.view_index is None:
            return {}
        return {key: views for key, views in read_view_index(self.options.view_index).items() if views is not None}

    @cached_property
    def _keys(self) -> frozenset[str]:
        """The scenes that are wanted, of which :meth:`capture` passes over what is damaged."""
        folder, points, keys = self._folder, self.options.points, self._folder.keys
        if self.options.view_index is not None:
            keys = [key for key in keys if key in self._view_index]
            if not keys:
                raise TrainingError(
                    f"{self.options.view_index} names no scene of {folder.path}; give the index of these chunks."
                )
        if points is not None and not any(find_points(points, key) for key in keys):
            raise TrainingError(
                f"{points} holds no points of any scene of {folder.path}; KEY.ply, KEY/sparse_pc.ply or KEY/sparse/0 "
                f"is needed, with KEY for example {next(iter(keys))}."
            )
        return frozenset(keys)

    @lru_cache(maxsize=2)  # noqa: B019 - sources live as long as the training
    def _order(self, number: int) -> list[str]:
        """The scenes of a pass."""
        rng = np.random.default_rng([_ORDER, self.seed, number])
        chunks = [[key for key in keys if key in self._keys] for keys in self._folder.chunks.values()]
        return [
            chunks[chunk][scene]
            for chunk in rng.permutation(len(chunks))
            for scene in rng.permutation(len(chunks[chunk]))
        ]
