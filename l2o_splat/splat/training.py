"""``ns-train`` in a process of its own, followed through its progress file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from l2o_splat.progress import RunProgress, read_progress
from l2o_splat.splat.errors import SplatError

FOLDER = "training"
"""Folder of the runs within that of the results; nerfstudio calls it the experiment."""
SECONDS_BETWEEN = 0.5
"""Seconds between two looks at the progress."""
CHECKPOINTS = "nerfstudio_models"


@dataclass(frozen=True)
class Training:
    """One run of ``ns-train``."""

    out: Path
    """Folder of the results."""
    method: str
    """As ``ns-train`` knows it."""
    name: str
    """Of the run: nerfstudio's timestamp."""
    seconds: float
    """Time budget, runs that it goes on from included."""
    data: str | None
    """Folder of the capture; None for a built-in one."""
    dataparser: Sequence[str]
    """nerfstudio's dataparser and its options."""
    goes_on_from: str | None
    """Name of the run before; None begins anew."""
    viewer: bool
    """Whether nerfstudio's viewer shows the scene during training."""

    @property
    def folder(self) -> Path:
        """Where the run keeps its config, progress and checkpoints."""
        return run_folder(self.out, self.method, self.name)

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.out / f"{FOLDER}-{self.name}.log"

    def viewer_address(self) -> str | None:
        """Where a browser finds the viewer; None before it is open."""
        found = re.search(r"https?://(localhost|[\d.]+):\d+", self.log.read_text(errors="replace"))
        return None if found is None else found[0].replace("0.0.0.0", "localhost")

    def command(self) -> list[str]:
        """The command line, with the scripts beside this Python."""
        words = [str(Path(sys.executable).parent / "ns-train"), self.method]
        words += ["--output-dir", str(self.out), "--experiment-name", FOLDER, "--timestamp", self.name]
        words += ["--seconds", f"{self.seconds:g}", "--vis", "viewer+tensorboard" if self.viewer else "tensorboard"]
        if self.method != "resplat":
            # Few photographs have few points.
            words += ["--pipeline.initialization.source", "predicted"]
        if self.viewer:
            words += ["--viewer.quit-on-train-completion", "True"]
        if self.goes_on_from is not None:
            checkpoints = run_folder(self.out, self.method, self.goes_on_from) / CHECKPOINTS
            words += ["--load-dir", str(checkpoints)]
        if self.data is not None:
            words += ["--data", self.data]
        return [*words, *self.dataparser]

    def run(self, follow: Callable[[RunProgress], None]) -> RunProgress:
        """Train, and return the last report; its phase is ``finished``, or ``stopped`` after Ctrl-C.

        Ctrl-C asks the run to stop after its step, with a checkpoint; a second one kills it.

        Args:
            follow: Gets every report.

        Raises:
            SplatError: If the run fails; the message says why, and where its output is.
        """
        log = self.log
        with log.open("w") as output:
            # In a session of its own: Ctrl-C in the terminal reaches this process alone, which passes it on once.
            process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
                start_new_session=True,
            )
            try:
                self._follow(process, follow)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                self._follow(process, follow)
            finally:
                process.kill()
                process.wait()
        last = read_progress(self.folder)
        if last is None or last.phase not in ("finished", "stopped"):
            why = last.message if last is not None and last.message else f"status {process.returncode}"
            raise SplatError(f"The training failed ({why}); its output is in {log}.")
        return last

    def _follow(self, process: subprocess.Popen, follow: Callable[[RunProgress], None]) -> None:
        seen = None
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN)
            progress = read_progress(self.folder)
            if progress is not None and progress != seen:
                follow(progress)
                seen = progress


def run_folder(out: Path, method: str, name: str) -> Path:
    """Where a run keeps its config, progress and checkpoints."""
    return out / FOLDER / method / name


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has saved a step."""
    return any((folder / CHECKPOINTS).glob("step-*.ckpt"))
