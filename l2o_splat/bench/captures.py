"""From what ``--data`` names to a scene name and the dataparser that reads it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from l2o_splat.bench.errors import BenchError

PROCEDURAL = re.compile(r"l2o-demo(:(?P<seed>\d+))?")


@dataclass(frozen=True)
class Capture:
    """One capture to benchmark on."""

    scene: str
    """Its name in the report: that of its folder."""
    dataparser: tuple[str, ...]
    """Name of nerfstudio's dataparser and its options."""
    data: str | None
    """Absolute path; None for built-in captures."""


def find_capture(text: str, dataparser: str | None = None) -> Capture:
    """The capture that one entry of ``--data`` means: a folder, or ``l2o-demo:SEED`` for a built-in procedural one.

    Args:
        text: The entry.
        dataparser: Dataparser with its options, as on the command line; None finds it from the files in the folder.

    Raises:
        BenchError: when the folder does not exist, or its format is not recognised.
    """
    folder = Path(text).expanduser()
    procedural = PROCEDURAL.fullmatch(text)
    if procedural and not folder.exists():
        return Capture(text, ("l2o-demo", "--seed", procedural["seed"] or "0"), None)
    if not folder.is_dir():
        raise BenchError(f"--data {text} is no folder; give folders of captures, or l2o-demo:SEED for a built-in one.")
    folder = folder.resolve()
    words = tuple(shlex.split(dataparser)) if dataparser else _recognise(folder)
    return Capture(folder.name, words, str(folder))


def _recognise(folder: Path) -> tuple[str, ...]:
    if (folder / "transforms.json").is_file():
        return "nerfstudio-data", "--load-3D-points"
    if (folder / "transforms_train.json").is_file():
        return ("blender-data",)
    for model in ("sparse/0", "colmap/sparse/0", "sparse"):
        if any((folder / model / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            return "colmap", "--colmap-path", model
    raise BenchError(
        f"{folder} holds neither a transforms.json nor a COLMAP model; name its nerfstudio dataparser, for example "
        "--dataparser 'scannet-data --scale-factor 2', or pose plain photographs with `l2o photos`."
    )
