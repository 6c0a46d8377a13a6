"""Which scenes initializers are trained on. Its options load no torch, so that `--help` does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from l2o_splat.training.chunk_options import ChunkOptions

if TYPE_CHECKING:
    import numpy as np

    from l2o_splat.scenes.procedural import ProceduralOptions
    from l2o_splat.training.sources import Source


@dataclass(frozen=True)
class SceneOptions:
    """Ranges from which procedural captures are drawn; both ends are included."""

    sizes: tuple[tuple[int, int], ...] = ((64, 96), (64, 112), (80, 112), (96, 128), (128, 192))
    """Heights and widths of images; each capture draws one pair. Multiples of what the networks need."""
    portrait_share: float = 0.25
    """Probability that height and width are swapped."""
    num_views: tuple[int, int] = (12, 16)
    """Number of photographs."""
    num_points: tuple[int, int] = (400, 2000)
    """Number of sparse points."""

    def draw(self, rng: np.random.Generator) -> ProceduralOptions:
        """Draw the options of one capture."""
        from l2o_splat.scenes.procedural import ProceduralOptions

        height, width = self.sizes[rng.integers(len(self.sizes))]
        if rng.random() < self.portrait_share:
            height, width = width, height
        views, points = (int(rng.integers(*ends, endpoint=True)) for ends in (self.num_views, self.num_points))
        return ProceduralOptions(num_views=views, width=width, height=height, num_points=points)


@dataclass(frozen=True)
class SceneData:
    """Which scenes are trained on."""

    seed: int = 0
    """Seed of the procedural scenes, and of the order and views of the chunks."""
    chunks: ChunkOptions = field(default_factory=ChunkOptions)
    """Scenes of RealEstate10K, DL3DV, or of `l2o chunks`, which are trained on in place of procedural ones."""
    validation_chunks: Path | None = None
    """Folder with chunks that are not trained on, on which curves and the best weights are measured in place of
    procedural captures; views are drawn as for training, always the same ones."""
    captures: int = 900
    """Number of procedural captures to train on, in turn; 0 makes a new one whenever one is needed."""
    folder: Path | None = None
    """Folder where they are stored, OUT/scenes by default; several runs may share it."""
    options: SceneOptions = field(default_factory=SceneOptions)
    """Their sizes."""
    validation_captures: int = 6
    """Number of captures, never trained on, on which curves and the best weights are measured."""

    def sources(self, out: Path) -> tuple[Source, Source]:
        """Sources of captures for training and for validation.

        Raises:
            ChunkError: If a folder of chunks is not usable.
            TrainingError: If there are no views or points for the chunks.
        """
        return self._training(out), self._validation(out)

    def _training(self, out: Path) -> Source:
        from l2o_splat.initializer_training.scenes import DepthSource, StoredSource

        if self.chunks.folder is not None:
            return _chunks(self.chunks, self.seed)
        scenes = DepthSource(self.seed, self.options)
        return StoredSource(scenes, self.folder or out / "scenes", self.captures) if self.captures else scenes

    def _validation(self, out: Path) -> Source:
        from l2o_splat.initializer_training.scenes import DepthSource, StoredSource
        from l2o_splat.training.sources import VALIDATION_SEEDS

        if self.validation_chunks is not None:
            return _chunks(replace(self.chunks, folder=self.validation_chunks), 0)
        scenes = DepthSource(0, self.options, VALIDATION_SEEDS)
        return StoredSource(scenes, self.folder or out / "scenes", max(self.validation_captures, 1))


def _chunks(options: ChunkOptions, seed: int) -> Source:
    """Scenes of a folder of chunks that can be used."""
    from l2o_splat.training.chunk_source import ChunkSource

    source = ChunkSource(options, seed)
    source.prepare()
    return source
