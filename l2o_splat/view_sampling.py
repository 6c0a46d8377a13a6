"""Which views an inner step sees: a function of seed and step alone, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

ViewStrategy = Literal["fps", "random", "sequential", "neighbors"]

REMEMBERED_STEPS = 4
"""Last steps whose views a sampler still knows."""


def farthest_points(
    centres: Float[np.ndarray, "n 3"], candidates: list[int], count: int, start: list[int]
) -> list[int]:
    """``start`` and further candidates, each the one farthest from all before it, ``count`` in all.

    Args:
        centres: Camera centres, scene units.
        candidates: Indices that may be chosen; at least as many as are missing.
        count: Length of the result.
        start: Indices chosen already, at least one.
    """
    chosen = list(start)
    pool = np.asarray([view for view in candidates if view not in set(start)], dtype=np.int64)
    distance = np.full(len(pool), np.inf)
    for view in chosen:
        distance = np.minimum(distance, np.linalg.norm(centres[pool] - centres[view], axis=1))
    while len(chosen) < count:
        best = int(distance.argmax())
        chosen.append(int(pool[best]))
        distance = np.minimum(distance, np.linalg.norm(centres[pool] - centres[pool[best]], axis=1))
        distance[best] = -1.0
    return chosen


def spread_views(centres: Float[np.ndarray, "n 3"], count: int) -> list[int]:
    """Views spread over a capture: first the one farthest from the mean of all, then the farthest from those before.

    Args:
        centres: Camera centres, scene units.
        count: Views wanted; all of them where there are fewer.
    """
    start = int(np.linalg.norm(centres - centres.mean(axis=0), axis=1).argmax())
    return farthest_points(centres, list(range(len(centres))), min(count, len(centres)), [start])


class ViewSampler:
    """Draws ``views_per_step`` training views for each inner step (Learn2Splat, arXiv 2605.15760, view sub-batching).

    Views are drawn from a stack that is used up before any view comes again. When fewer than
    ``views_per_step`` remain, all of them are drawn and the rest comes from a fresh full set, so that
    every view comes equally often (the paper's code drops carried-over views from the fresh set, which
    favours some views if the number of views is no multiple of ``views_per_step``). With no more
    views than ``views_per_step`` every step sees all of them. From some step on there may be more or fewer views in a
    step, see :meth:`change`.

    Strategies: ``random`` takes the top of a shuffled stack; ``sequential`` goes through the views in
    order; ``fps`` starts at a random view of the stack and adds the farthest of it each time; ``neighbors``
    takes the top of a shuffled stack and the views of the capture nearest to it (only the first is used up).

    Args:
        centres: Camera centres, scene units.
        views_per_step: Views in each step.
        strategy: One of the four above.
        seed: Another seed gives another order.

    Raises:
        ValueError: If there are no cameras or no views per step, or the strategy is unknown.
    """

    def __init__(
        self, centres: Float[np.ndarray, "n 3"], views_per_step: int, strategy: ViewStrategy, seed: int
    ) -> None:
        if len(centres) < 1 or views_per_step < 1:
            raise ValueError(f"{views_per_step} views of {len(centres)} cameras were asked for; at least 1 is needed.")
        if strategy not in get_args(ViewStrategy):
            raise ValueError(f"View strategy {strategy!r} is unknown; choose one of {get_args(ViewStrategy)}.")
        self.centres = np.asarray(centres, dtype=np.float64)
        self.strategy = strategy
        self.seed = seed
        self.changes: list[tuple[int, int]] = [(0, views_per_step)]
        """Steps, ascending from 0, and the views in each step from there on; those of the capture at most."""
        self._rewind()

    def _rewind(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._stack: list[int] = []
        self._drawn: dict[int, list[int]] = {}
        self._next_step = 0

    @property
    def views_per_step(self) -> int:
        """Views in each step from the last change on."""
        return min(self.changes[-1][1], len(self.centres))

    def change(self, step: int, views_per_step: int) -> None:
        """Draw so many views in each step from ``step`` on; what later steps were to draw is forgotten.

        Raises:
            ValueError: If there are no views per step, or an earlier change came after this step.
        """
        last, present = self.changes[-1]
        if views_per_step < 1 or step < last:
            raise ValueError(
                f"{views_per_step} views from step {step} on were asked for, after a change in step {last}; at least 1 "
                "view and no earlier step are needed."
            )
        if views_per_step == present:
            return
        self.changes = [*(entry for entry in self.changes if entry[0] < step), (step, views_per_step)]
        if self._next_step > step:
            self._rewind()

    def resume(self, changes: Sequence[tuple[int, int]]) -> None:
        """Draw as a sampler with these changes."""
        self.changes = [(int(step), int(count)) for step, count in changes]
        self._rewind()

    def views(self, step: int) -> list[int]:
        """Indices of the views of an inner step.

        Steps in order, and the last few again, cost nothing extra; any other step replays the order from the first.
        """
        if step not in self._drawn and step < self._next_step:
            self._rewind()
        while step not in self._drawn:
            count = next(count for first, count in reversed(self.changes) if first <= self._next_step)
            self._drawn[self._next_step] = self._draw(min(count, len(self.centres)))
            self._drawn.pop(self._next_step - REMEMBERED_STEPS, None)
            self._next_step += 1
        return self._drawn[step]

    def ahead(self, step: int, count: int) -> list[int]:
        """The views of this step and of as many of the next ones as it takes for ``count``, each once."""
        found: dict[int, None] = {}
        while len(found) < min(count, len(self.centres)):
            found |= dict.fromkeys(self.views(step))
            step += 1
        return list(found)

    def _draw(self, count: int) -> list[int]:
        n = len(self.centres)
        if count == n:
            return list(range(n))
        if self.strategy == "neighbors":
            return self._draw_neighbors(count)
        drawn: list[int] = []
        if len(self._stack) < count:
            drawn, self._stack = self._stack, self._fresh_set()
        candidates = [view for view in self._stack if view not in drawn]
        if self.strategy == "fps":
            start = drawn or [candidates[int(self._random.integers(len(candidates)))]]
            drawn = farthest_points(self.centres, candidates, count, start)
        else:
            drawn = drawn + candidates[: count - len(drawn)]
        # Views carried over from the last pass stay in the fresh one.
        used = set(drawn) & set(candidates)
        self._stack = [view for view in self._stack if view not in used]
        return drawn

    def _draw_neighbors(self, count: int) -> list[int]:
        centre, *self._stack = self._stack or self._fresh_set()
        distance = np.linalg.norm(self.centres - self.centres[centre], axis=1)
        distance[centre] = -1.0
        return np.argsort(distance, kind="stable")[:count].tolist()

    def _fresh_set(self) -> list[int]:
        n = len(self.centres)
        return list(range(n)) if self.strategy == "sequential" else self._random.permutation(n).tolist()
