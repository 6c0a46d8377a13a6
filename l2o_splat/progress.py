"""How far a training run is, for a program that follows it: in the same process or in another one.

A run of ``ns-train`` with one of our methods keeps :data:`PROGRESS_NAME` beside its ``config.yml``: a JSON object with
the fields of :class:`RunProgress`. The file is replaced as a whole, at once when the phase or the held-out quality
changes and otherwise at most every :data:`SECONDS_BETWEEN` seconds, so that a reader never sees half of it::

    folder = output_dir / experiment_name / method / timestamp      # as given to ns-train
    process = subprocess.Popen(["ns-train", method, "--timestamp", timestamp, ...])
    while process.poll() is None:
        progress = read_progress(folder)                            # None before the run has begun
        time.sleep(0.5)

In the same process a function gets every report as it is made::

    trainer = config.setup(local_rank=0, world_size=1)
    trainer.progress.listeners.append(lambda progress: print(progress.phase, progress.share))
    trainer.setup()
    trainer.train()

A run ends with the phase ``finished``, ``stopped`` or ``failed``. One that was killed keeps the last phase it had; its
parent sees that the process has ended. SIGINT (Ctrl-C) and SIGTERM stop a run after its step, with a checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

PROGRESS_NAME = "progress.json"
"""File of a run's progress, beside ``config.yml``."""
SECONDS_BETWEEN = 0.5
"""Seconds between two reports in one phase, at least."""

Phase = Literal["reading", "starting", "training", "evaluating", "paused", "saving", "finished", "stopped", "failed"]
"""``reading``: the capture, and what must be compiled. ``starting``: the initializer makes the scene. ``evaluating``:
held-out photographs, on no clock. ``saving``: the last checkpoint; those before it are saved while training.
``finished``: all steps are taken, saved and evaluated; a viewer may still be open. ``stopped``: by Ctrl-C or SIGTERM,
the last step is saved. ``failed``: see :attr:`RunProgress.message`."""

ENDS: tuple[Phase, ...] = ("finished", "stopped", "failed")
"""Phases after which nothing follows."""


@dataclass(frozen=True)
class RunProgress:
    """What is known of a run at one moment; None where it is not known (yet)."""

    phase: Phase = "reading"
    message: str = ""
    """One sentence about a run that has failed."""
    rule: str = ""
    """What moves the Gaussians, by name."""
    step: int = 0
    """Steps taken, those before a resume included."""
    last_step: int | None = None
    """Steps at the end; with a time budget an estimate that changes on the way."""
    share: float = 0.0
    """Share of the budget spent, 0 to 1: of the seconds if the run has a time budget, else of its steps."""
    seconds_left: float | None = None
    """Seconds to the end of the last step: of the time budget (on its clock), or estimated. Evaluations and, without a
    time budget, saves come on top."""
    step_seconds: float | None = None
    """Seconds of a step, of late."""
    loss: float | None = None
    """Training loss of the last step, mean over its photographs."""
    psnr: float | None = None
    """PSNR of the last step on the photographs it saw, dB."""
    psnr_held_out: float | None = None
    """PSNR on the held-out photographs at the last evaluation, dB; None as well if none is held out."""
    num_gaussians: int | None = None
    written_at: float = 0.0
    """Unix time of this report."""

    @property
    def is_over(self) -> bool:
        """Whether the run has ended by itself."""
        return self.phase in ENDS


def read_progress(folder: Path) -> RunProgress | None:
    """The last report of a run; None if there is none (yet).

    Args:
        folder: Of the run, in which its ``config.yml`` is.
    """
    try:
        values = json.loads((folder / PROGRESS_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    known = {field.name for field in fields(RunProgress)}
    # A newer version may say more.
    return RunProgress(**{name: value for name, value in values.items() if name in known})


class ProgressReporter:
    """Keeps the progress of one run, and reports it to a file and to listeners.

    A report that cannot be written (a full disk, a folder that was removed) is left out: training goes on.

    Args:
        folder: Of the run; None writes no file.
        now: Seconds on any clock.
    """

    def __init__(self, folder: Path | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.listeners: list[Callable[[RunProgress], None]] = []
        """Called with every report, in the thread that trains; should return at once."""
        self.current = RunProgress()
        """The last report."""
        self._folder, self._now = folder, now
        self._reported: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether a step should be reported; what it needs must be asked for first, which costs time on a GPU."""
        return self._reported is None or self._now() - self._reported >= SECONDS_BETWEEN

    def report(self, **changes: object) -> None:
        """Report at once what has changed, by names of the fields of :class:`RunProgress`."""
        self.current = replace(self.current, **changes, written_at=time.time())
        self._reported = self._now()
        self._write()
        for listener in self.listeners:
            listener(self.current)

    def _write(self) -> None:
        if self._folder is None:
            return
        path = self._folder / PROGRESS_NAME
        beside = self._folder / f".{os.getpid()}.{PROGRESS_NAME}"
        try:
            # Not synced to the disk, which may take longer than a step: after a power failure nobody follows the run.
            beside.write_text(json.dumps(asdict(self.current)) + "\n", encoding="utf-8")
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
