"""``l2o splat``: from photographs to a splat to look at and share."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from l2o_splat.splat.errors import SplatError


@dataclass
class Splat:
    """Make a splat of photographs: find their poses, train, and write files, a page to look at and a report.

    The same command goes on where an earlier one stopped; with more seconds it trains longer. Ctrl-C during training
    writes the results of the scene as it is.
    """

    photos: tyro.conf.Positional[str]
    """Folder of photographs, a video file, a capture that has poses, or l2o-demo:SEED for a built-in one."""
    out: Path | None = None
    """Folder of the results; PHOTOS-splat beside the photographs by default."""
    seconds: float = 120.0
    """Time for training; finding poses before and writing files after come on top."""
    method: Literal["learn2splat", "l2o-adam-tuned", "resplat"] = "learn2splat"
    """What trains, as ns-train knows it."""
    formats: tuple[Literal["ply", "spz", "sog"], ...] = ("ply", "spz")
    """Splat files to write."""
    max_size: int = 1600
    """Photographs without poses are reduced to this many pixels on the long side."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """Which photographs are compared, as for l2o photos."""
    frames: int = 80
    """Frames that are taken from a video."""
    viewer: bool = False
    """Show the training in nerfstudio's viewer."""

    def run(self) -> None:
        """Make the splat and say where it is.

        Raises:
            L2OError: If a part fails; what was done before stays.
        """
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise SplatError(f"--seconds is {self.seconds}; a time above 0 is needed.")
        # Only now: it imports more than the help needs.
        from l2o_splat.splat.work import Request, make_splat

        out = self.out or self._beside()
        request = Request(
            self.photos,
            out,
            self.seconds,
            self.method,
            self.formats,
            self.max_size,
            self.matching,
            self.frames,
            self.viewer,
            (Path(sys.argv[0]).name, *sys.argv[1:]),
        )
        page = make_splat(request)
        print(f"Look at it: {page}\nShare it:   {out / f'splat.{self.formats[0]}' if self.formats else page}")
        print(f"Report:     {out / 'report.html'}")

    def _beside(self) -> Path:
        """The folder of results that belongs to the photographs."""
        photos = Path(self.photos).expanduser()
        if not photos.exists():
            return Path(f"{self.photos.replace(':', '-')}-splat")
        photos = photos.resolve()
        return photos.with_name(f"{photos.stem if photos.is_file() else photos.name}-splat")
