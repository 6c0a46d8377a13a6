"""The ``l2o`` command: a table of its subcommands, and the one place that turns expected errors into a sentence."""

from __future__ import annotations

import sys
from typing import Any

import tyro

from l2o_splat.bench.command import bench, compare
from l2o_splat.commands.check import Check
from l2o_splat.commands.chunks import Chunks
from l2o_splat.commands.demo import Demo
from l2o_splat.commands.meta_train import MetaTrainCommand
from l2o_splat.commands.photos import Photos
from l2o_splat.commands.presets import parse_with_preset
from l2o_splat.commands.prove import Prove
from l2o_splat.commands.saved_scenes import Eval, Export
from l2o_splat.commands.splat import Splat
from l2o_splat.commands.weights import WeightsCommand
from l2o_splat.errors import L2OError
from l2o_splat.evolution.command import TrainController
from l2o_splat.initializer_training.command import TrainInitializer

COMMANDS = {
    "splat": Splat,
    "check": Check,
    "prove": Prove,
    "demo": Demo,
    "photos": Photos,
    "chunks": Chunks,
    "eval": Eval,
    "export": Export,
    "weights": WeightsCommand,
    "meta-train": MetaTrainCommand,
    "train-initializer": TrainInitializer,
    "train-controller": TrainController,
    "bench": bench,
    "bench-compare": compare,
}
"""What each subcommand runs: the method ``run`` of a class, or a function that returns the exit status."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``l2o`` command.

    Raises:
        SystemExit: With the exit status, or with one sentence for an expected error.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:2] == ["bench", "compare"]:
        # tyro allows no subcommand beside options, and `bench` has options.
        words = ["bench-compare", *words[2:]]
    try:
        command = _parse(words)
        # tyro has called the functions already, and returns their exit status.
        sys.exit(command if isinstance(command, int) else command.run())
    except L2OError as error:
        raise SystemExit(f"l2o: {error}") from error


def _parse(words: list[str]) -> Any:
    """The command with its options, or the exit status of one that is a function."""
    command = COMMANDS.get(words[0]) if words else None
    if hasattr(command, "of_preset"):
        return parse_with_preset(command, f"l2o {words[0]}", words[1:])
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, args=words, prog="l2o", description="Learned optimization for Gaussian splats."
    )


if __name__ == "__main__":
    main()
