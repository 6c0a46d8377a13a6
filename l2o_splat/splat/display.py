"""One display over all parts of ``l2o splat``: what is done, what goes on, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
"""Without a terminal a part prints a line at most so often."""
BAR_WIDTH = 24


@dataclass
class _Part:
    name: str
    expected: float
    share: float = 0.0
    detail: str = ""
    begun: float | None = None
    took: float | None = None
    left: float | None = None
    last_line: float = 0.0


class Display:
    """Shows the parts one below the other on a terminal, and as plain lines elsewhere.

    Args:
        parts: Name and expected seconds of each part that will run, in order.
        console: Where to.
        now: Seconds on any clock.
    """

    def __init__(
        self,
        parts: Sequence[tuple[str, float]],
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console()
        self._parts = [_Part(name, expected) for name, expected in parts]
        self._now = now
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            self._live.__enter__()
        self.say(f"This takes about {spoken(self.seconds_left)}.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print a remark above the parts; a warning in another colour."""
        style = "bold yellow" if text.startswith("WARNING") else None
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str, detail: str = "") -> None:
        """A part begins."""
        part = self._part(name)
        part.begun, part.detail = self._now(), detail
        self._line(part)

    def update(self, name: str, share: float, detail: str = "", left: float | None = None) -> None:
        """How far a part is.

        Args:
            name: Of the part.
            share: What is done of it, 0 to 1.
            detail: What it finds at the moment.
            left: Seconds that it still takes; None lets the display estimate them.
        """
        part = self._part(name)
        part.share, part.detail, part.left = share, detail, left
        if self._now() - part.last_line >= SECONDS_BETWEEN_LINES:
            self._line(part)

    def end(self, name: str, detail: str = "") -> None:
        """A part is done."""
        part = self._part(name)
        part.share, part.detail, part.took = 1.0, detail, self.seconds_of(name)
        self._line(part)

    def seconds_of(self, name: str) -> float:
        """Seconds that a part has taken until now; 0 before it has begun."""
        part = self._part(name)
        if part.begun is None:
            return 0.0
        return self._now() - part.begun if part.took is None else part.took

    @property
    def seconds_left(self) -> float:
        """Seconds until the last part is done, as far as can be told."""
        return sum(self._left(part) for part in self._parts)

    def _left(self, part: _Part) -> float:
        if part.took is not None:
            return 0.0
        if part.begun is None:
            return part.expected
        if part.left is not None:
            return part.left
        elapsed = self._now() - part.begun
        # What was expected, until the part itself knows better.
        by_share = elapsed / part.share - elapsed if part.share > 0 else part.expected
        return part.share * by_share + (1 - part.share) * max(part.expected - elapsed, 0.0)

    def _part(self, name: str) -> _Part:
        return next(part for part in self._parts if part.name == name)

    def _line(self, part: _Part) -> None:
        """Without a terminal: print how a part stands."""
        part.last_line = self._now()
        if self._live is not None:
            return
        if part.took is not None:
            how = f"done in {spoken(part.took)}"
        else:
            how = f"{part.share:.0%}, {spoken(self.seconds_left)} left in all"
        self._console.print(": ".join(filter(None, (part.name, how, part.detail))), highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for part in self._parts:
            if part.took is not None:
                row = ("[green]✓", part.name, Text(spoken(part.took)), Text(part.detail))
            elif part.begun is not None:
                bar = ProgressBar(total=1.0, completed=part.share, width=BAR_WIDTH)
                row = ("[yellow]▸", part.name, bar, Text(part.detail))
            else:
                row = ("[dim]·", f"[dim]{part.name}", Text(f"about {spoken(part.expected)}", style="dim"), "")
            table.add_row(*row)
        left = Text(f"{spoken(self.seconds_left)} left" if self.seconds_left else "", style="bold")
        return Group(table, left)


def spoken(seconds: float) -> str:
    """A duration in words: ``8 s``, ``1:05 min``."""
    whole = max(round(seconds), 0)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d} min"
