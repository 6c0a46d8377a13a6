"""Procedural captures with the exact depth of every pixel, made once and stored on disk."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from l2o_splat.files import write_whole
from l2o_splat.initializer_training.data import SceneOptions
from l2o_splat.scenes.capture import Points
from l2o_splat.scenes.procedural import GENERATOR_VERSION, ProceduralCapture, generate
from l2o_splat.training.sources import TRAINING_SEEDS, ProceduralSource, Source
from l2o_splat.views import PinholeCameras, Views


@dataclass(frozen=True)
class DepthSource(Source):
    """Captures of sizes that suit the networks; their seeds are apart from those of the demo and of benchmarks."""

    seed: int = 0
    """Where to begin in ``seeds``, see :class:`ProceduralSource`."""
    options: SceneOptions = field(default_factory=SceneOptions)
    """Sizes of the captures."""
    seeds: range = TRAINING_SEEDS
    """Generator seeds."""

    def capture(self, index: int) -> ProceduralCapture:
        seed = ProceduralSource(self.seed, seeds=self.seeds).generator_seed(index)
        # Another random stream than the generator's, which are spawned from the bare seed.
        return generate(seed, self.options.draw(np.random.default_rng([seed, 1])))

    def prepare(self) -> None:
        ProceduralSource().prepare()


@dataclass(frozen=True)
class StoredSource(Source):
    """The first captures of a source, in turn, each written to a folder when it is first asked for."""

    source: Source
    """Makes the captures."""
    folder: Path
    """Folder of the files; several runs may share it."""
    count: int
    """Number of captures; index i gives capture i modulo this."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"{self.count} captures were asked for; at least 1 is needed to train on.")

    def capture(self, index: int) -> ProceduralCapture:
        number = index % self.count
        # Captures of other options have other file names.
        kind = f"{zlib.crc32(repr((GENERATOR_VERSION, self.source)).encode()):08x}"
        path = self.folder / f"capture-{kind}-{number:06d}.pt"
        if not path.exists():
            _write(path, self.source.capture(number))
        return _read(path)

    def prepare(self) -> None:
        self.source.prepare()


def _write(path: Path, capture: ProceduralCapture) -> None:
    """Write a capture, images in 8 bits as photographs are; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cameras = capture.views.cameras
    content = {
        "images": (capture.views.images.clamp(0, 1) * 255).round().to(torch.uint8),
        "viewmats": cameras.viewmats,
        "Ks": cameras.Ks,
        "depths": capture.depths,
        "xyz": capture.points.xyz,
        "rgb": capture.points.rgb,
    }
    tensors = {name: tensor.contiguous() for name, tensor in content.items()}
    write_whole(path, lambda target: torch.save(tensors, target))


def _read(path: Path) -> ProceduralCapture:
    content = torch.load(path, weights_only=True)
    height, width = content["images"].shape[1:3]
    cameras = PinholeCameras(content["viewmats"], content["Ks"], width, height)
    return ProceduralCapture(
        Views(cameras, content["images"].float() / 255), Points(content["xyz"], content["rgb"]), content["depths"]
    )
