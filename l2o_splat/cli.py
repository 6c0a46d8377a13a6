"""The ``l2o`` command. Each subcommand hands over to the room it belongs to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from l2o_splat.bench.command import bench, compare
from l2o_splat.check import check
from l2o_splat.demo import DemoError, demo
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.meta.command import MetaTrain as MetaTrainCommand
from l2o_splat.scenes.photos import PhotosError, pose_photos
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.prefetch import SourceError
from l2o_splat.training.saved_state import ResumeError
from l2o_splat.weights import WeightsError
from l2o_splat.weights.cli import WeightsCommand


@dataclass
class Check:
    """Tell what this machine can do, and what to run where something is missing."""

    fix: bool = False
    """First do what can be done without a system package (an ffmpeg beside python)."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> None:
        """Exit status 1 if something that is needed is missing."""
        sys.exit(check(self.fix, self.json))


@dataclass
class Demo:
    """Train, evaluate and export a splat of the built-in capture; needs no data, network or GPU."""

    out: Path = Path("demo")
    """Folder for the results; what an earlier demo left in it is replaced."""
    steps: int = 80
    """Training steps."""
    seed: int = 0
    """Another seed gives another capture."""

    def run(self) -> None:
        """Print where the results are."""
        demo(self.out, self.steps, self.seed)


@dataclass
class Photos:
    """Find poses and sparse points for a folder of photographs, and write a capture that --data takes."""

    photos: tyro.conf.Positional[Path]
    """Folder of photographs of one size from one camera; they are only read."""
    out: Path | None = None
    """Folder of the capture, new or empty; PHOTOS-capture beside the photographs by default."""
    max_size: int = 1600
    """Longer photographs are reduced to this many pixels on the long side."""
    matcher: Literal["exhaustive", "sequential"] = "exhaustive"
    """exhaustive compares every pair; sequential each photograph with the next 10, for video frames."""

    def run(self) -> None:
        """Pose them and say how to train on the capture."""
        photos = self.photos.resolve()
        out = self.out or photos.with_name(f"{photos.name}-capture")
        pose_photos(self.photos, out, max_size=self.max_size, matcher=self.matcher)
        print(f"Train on it with: ns-train l2o-adam-tuned --data {out}")


@dataclass
class Weights:
    """List, show, fetch and convert weights."""

    command: tyro.conf.OmitSubcommandPrefixes[WeightsCommand]

    def run(self) -> None:
        """Run the one chosen."""
        self.command.run()


@dataclass
class MetaTrain(MetaTrainCommand):
    __doc__ = MetaTrainCommand.__doc__

    def run(self) -> None:
        """Train; captures are read by nerfstudio."""
        from l2o_splat.plugin.training_captures import read_training_capture

        super().run(read_training_capture)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``l2o`` command; expected failures are one sentence, not a stack trace."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:2] == ["bench", "compare"]:
        # `bench` has options of its own, beside which tyro takes no further subcommand.
        words = ["bench-compare", *words[2:]]
    try:
        result = tyro.extras.subcommand_cli_from_dict(
            {
                "check": Check,
                "demo": Demo,
                "photos": Photos,
                "weights": Weights,
                "meta-train": MetaTrain,
                "train-initializer": TrainInitializer,
                "bench": bench,
                "bench-compare": compare,
            },
            args=words,
            prog="l2o",
            description="Learned optimization for Gaussian splats.",
        )
        # The bench's functions have run by now and give an exit status; the others are run here.
        own = Check | Demo | Photos | Weights | MetaTrain | TrainInitializer
        sys.exit(result.run() if isinstance(result, own) else result)
    except (
        DemoError,
        PhotosError,
        ResumeError,
        SourceError,
        TrainingError,
        WeightsError,
    ) as error:
        raise SystemExit(f"l2o: {error}") from error
