"""How a command shows the phases of long work: bars on a terminal, a line at start and end of a phase elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class PhaseDisplay:
    """Shows phases and remarks; its methods are the callbacks of :func:`l2o_splat.scenes.photos.pose_photos`."""

    def __init__(self, console: Console, bars: Progress | None, titles: Mapping[str, str]) -> None:
        """Use :func:`phase_display`."""
        self._console, self._bars, self._titles = console, bars, titles
        self._tasks: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._ended: set[str] = set()

    def progress(self, phase: str, share: float) -> None:
        """Show how much of a phase is done, 0 to 1."""
        title = self._titles.get(phase, phase)
        if phase not in self._started:
            self._started[phase] = time.monotonic()
            if self._bars is not None:
                self._tasks[phase] = self._bars.add_task(title, total=1.0)
            else:
                self.report(f"{title} ...")
        if self._bars is not None:
            self._bars.update(self._tasks[phase], completed=share)
        elif share >= 1 and phase not in self._ended:
            self.report(f"{title}: done after {time.monotonic() - self._started[phase]:.0f} s")
        if share >= 1:
            self._ended.add(phase)

    def report(self, line: str) -> None:
        """Show a line; a warning in another colour."""
        self._console.print(
            line,
            style="bold yellow" if line.startswith("WARNING") else None,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def phase_display(titles: Mapping[str, str]) -> Iterator[PhaseDisplay]:
    """A display for the phases with these titles, for as long as the block lasts."""
    console = Console()
    if not console.is_terminal:
        yield PhaseDisplay(console, None, titles)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield PhaseDisplay(console, bars, titles)
