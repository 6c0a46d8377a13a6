"""A copy of a capture with one brighter photograph: ``python benchmarks/brighten.py CAPTURE COPY --help``.

It is the first of the training views that the protocol of ``l2o bench --views`` takes, so that it counts whatever else
is left out. The other photographs, and points and poses, are linked, not copied.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

if not __package__:  # Run as a program.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.posed_frames import posed_frames


@dataclass
class Options:
    """What to make brighter, and by how much."""

    capture: tyro.conf.Positional[Path]
    """Folder with ``transforms.json``, ``images`` and sparse points."""
    copy: tyro.conf.Positional[Path]
    """Folder to write."""
    views: int | None = None
    """Training views, spread as far as possible; None for all that are not held out."""
    factor: float = 1.2
    """Factor of the numbers of the photograph, sRGB; what exceeds white is clipped."""


def brighten(options: Options) -> None:
    """Write the copy."""
    meta, frames, training, _ = posed_frames(options.capture, options.views)
    chosen = frames[training[0]]["file_path"]
    for frame in frames:
        path = options.copy / frame["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if frame["file_path"] != chosen:
            path.symlink_to((options.capture / frame["file_path"]).absolute())
            continue
        pixels = options.factor * np.asarray(Image.open(options.capture / chosen), np.float32)
        Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(path, quality=95)
    for name in ("transforms.json", meta["ply_file_path"]):
        (options.copy / name).symlink_to((options.capture / name).absolute())
    print(f"{chosen} is {options.factor:g} times as bright.")


if __name__ == "__main__":
    brighten(tyro.cli(Options, description=__doc__))
