"""The phases of posing photographs, and how their progress is reported while COLMAP works."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

Progress = Callable[[str, float], None]
"""Called with the name of a phase (one of :data:`PHASES`) and the share of it that is done, 0 to 1."""

PHASE_TITLES = {
    "frames": "Choosing sharp frames",
    "reading": "Reading the photographs",
    "features": "Finding features",
    "matching": "Matching features",
    "mapping": "Estimating poses",
    "global mapping": "Estimating all poses at once",
    "rest": "Estimating the remaining poses",
    "undistorting": "Undistorting the photographs",
}
"""What is done in each phase, for people."""

PHASES = tuple(PHASE_TITLES)
"""In their order. ``frames`` comes for a video alone, in place of ``reading``. Only if mapping one photograph after the
other left some out, ``global mapping`` poses all at once, and ``rest`` those that are still missing."""

_SECONDS_BETWEEN_CALLS = 0.3

Result = TypeVar("Result")


def no_progress(phase: str, share: float) -> None:
    """The progress callback that shows nothing."""


def run_watched(
    work: Callable[[], Result], watch: Callable[[], None], cancel: Callable[[], None] = lambda: None
) -> Result:
    """Run ``work`` in a thread beside this one, and call ``watch`` here until it ends.

    What ``watch`` raises, or Ctrl-C, calls ``cancel``, waits for the end of ``work``, and is raised again.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            while not wait([future], _SECONDS_BETWEEN_CALLS).done:
                watch()
        except BaseException:
            cancel()
            raise
        return future.result()
