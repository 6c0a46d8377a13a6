"""The table of steps on the console: budget, loss, PSNR, Gaussians and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import tyro
from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import EventName, LocalWriter

from l2o_splat.plugin.run_estimate import spoken
from l2o_splat.progress import RunProgress

SECONDS_BETWEEN_ROWS = 2.0
"""Seconds between two rows at the beginning of a run, at least."""
SHARE_BETWEEN_ROWS = 0.05
"""The same as a share of the time of the run so far, so that a long run does not fill the screen."""

COLUMNS = ("step", "budget", "time left", "loss", "PSNR", "held out", "Gaussians", "s/step")
WIDTHS = (11, 7, 10, 8, 9, 9, 10, 7)


@dataclass
class StepTableConfig(LocalWriterConfig):
    """Whether a run prints its table of steps."""

    _target: type = field(default_factory=lambda: StepTable)
    enable: bool = True
    """Print a row every few seconds."""
    # Of nerfstudio's own table, which this one replaces.
    stats_to_track: tyro.conf.Suppress[tuple[EventName, ...]] = ()
    max_log_size: tyro.conf.Suppress[int] = 0


class StepTable(LocalWriter):
    """nerfstudio's local writer, which prints what a run reports rather than what nerfstudio has measured.

    A row costs nothing that the report did not: its numbers have been asked for already. Rows are plain lines, so that
    a log file holds the same as a screen.

    Args:
        config: Of the table.
        banner_messages: Lines about the viewer, printed once.
        now: Seconds on any clock.
    """

    def __init__(
        self,
        config: LocalWriterConfig,
        banner_messages: list[str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config, banner_messages)
        for line in banner_messages or ():
            CONSOLE.print(line, style="bold", highlight=False, soft_wrap=True)
        self._now = now
        self._began: float | None = None
        self._printed_at, self._printed_step = 0.0, -1

    def write_stats_log(self, step: int) -> None:
        """Nothing: nerfstudio calls this in every step, and :meth:`show` prints what is due."""

    def show(self, progress: RunProgress) -> None:
        """Print a row if one is due; the last step always gets one."""
        if progress.phase not in ("training", "saving") or progress.step in (0, self._printed_step):
            return
        now = self._now()
        if self._began is None:
            self._began = now
            CONSOLE.print(_row(COLUMNS), style="bold", highlight=False)
        elif progress.phase == "training" and now - self._printed_at < max(
            SECONDS_BETWEEN_ROWS, SHARE_BETWEEN_ROWS * (now - self._began)
        ):
            return
        self._printed_at, self._printed_step = now, progress.step
        CONSOLE.print(_row(_cells(progress)), highlight=False)


def _cells(progress: RunProgress) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    last = "" if progress.last_step is None else f"/{progress.last_step}"
    left = progress.seconds_left
    return (
        f"{progress.step}{last}",
        f"{progress.share:.0%}",
        "-" if left is None else spoken(left) if left >= 0.5 else "0 s",
        shown(progress.loss, "{:.4f}"),
        shown(progress.psnr, "{:.2f} dB"),
        shown(progress.psnr_held_out, "{:.2f} dB"),
        shown(progress.num_gaussians, "{}"),
        shown(progress.step_seconds, "{:.3f}"),
    )


def _row(cells: tuple[str, ...]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))
