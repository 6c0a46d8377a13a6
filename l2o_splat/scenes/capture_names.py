"""The capture that a command-line argument names: its scene name, and the dataparser that reads it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2o_splat.errors import L2OError

if TYPE_CHECKING:
    from l2o_splat.scenes.split import ViewChoice

PROCEDURAL = re.compile(r"l2o-demo(:(?P<seed>\d+))?")


class CaptureNameError(L2OError, ValueError):
    """An argument names no capture; the message says what was found and what to give instead."""


@dataclass(frozen=True)
class CaptureSource:
    """Where a capture comes from and how it is read."""

    scene: str
    """Name of the scene: that of its folder."""
    dataparser: tuple[str, ...]
    """Name of nerfstudio's dataparser and its options."""
    data: str | None
    """Absolute path of the folder; None for built-in captures."""
    views: ViewChoice | None = None
    """Which views are trained on and held out; None leaves it to the command that reads the capture."""


def find_capture(text: str, dataparser: str | None = None) -> CaptureSource:
    """The capture that one entry of ``--data`` names: a folder, or ``l2o-demo:SEED`` for a built-in procedural one.

    Args:
        text: Folder, or ``l2o-demo:SEED``.
        dataparser: Dataparser with its options, as on the command line; None finds it from the files in the folder.

    Raises:
        CaptureNameError: If the folder does not exist, or its format is not recognised.
    """
    folder = Path(text).expanduser()
    procedural = PROCEDURAL.fullmatch(text)
    if procedural and not folder.exists():
        return CaptureSource(text, ("l2o-demo", "--seed", procedural["seed"] or "0"), None)
    if not folder.is_dir():
        raise CaptureNameError(
            f"--data {text} is no folder; give folders of captures, or l2o-demo:SEED for a built-in one."
        )
    folder = folder.resolve()
    words = tuple(shlex.split(dataparser)) if dataparser else _recognise(folder)
    return CaptureSource(folder.name, words, str(folder))


def is_capture(text: str) -> bool:
    """Whether :func:`find_capture` knows how to read what ``text`` names; photographs without poses are none."""
    folder = Path(text).expanduser()
    if not folder.exists():
        return PROCEDURAL.fullmatch(text) is not None
    try:
        _recognise(folder)
    except CaptureNameError:
        return False
    return True


def _recognise(folder: Path) -> tuple[str, ...]:
    if (folder / "transforms.json").is_file():
        return "nerfstudio-data", "--load-3D-points"
    if (folder / "transforms_train.json").is_file():
        return ("blender-data",)
    for model in ("sparse/0", "colmap/sparse/0", "sparse"):
        if any((folder / model / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            return "colmap", "--colmap-path", model
    raise CaptureNameError(
        f"{folder} holds neither a transforms.json nor a COLMAP model; name its nerfstudio dataparser, for example "
        "--dataparser 'scannet-data --scale-factor 2', or pose plain photographs with `l2o photos`."
    )
