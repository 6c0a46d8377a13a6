"""``l2o demo``: ``l2o splat`` on a built-in capture, with the learned rule."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from l2o_splat.commands.splat import Splat
from l2o_splat.splat.journal import JOURNAL_NAME


@dataclass
class Demo:
    """Make a splat of a built-in capture with learn2splat; needs no photographs, network or GPU."""

    out: Path = Path("demo")
    """Folder of the results; those of an earlier demo in it are replaced."""
    seconds: float = 30.0
    """Time for training."""
    seed: int = 0
    """Another seed gives another capture."""

    def run(self) -> None:
        """Train, and say where page, splat and report are.

        Raises:
            L2OError: If a part fails.
        """
        if (self.out / JOURNAL_NAME).exists():
            shutil.rmtree(self.out)
        Splat(f"l2o-demo:{self.seed}", self.out, self.seconds, "learn2splat").run()
