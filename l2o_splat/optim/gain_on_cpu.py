"""The gain rule's step by the kernels of :mod:`l2o_splat.nets.gain_step`: for float32 on the CPU, without a graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat import threads
from l2o_splat.gaussians import Gaussians
from l2o_splat.nets import gain_step
from l2o_splat.optim.adam_moments import BETA1, BETA2, EPS
from l2o_splat.optim.in_place import flat
from l2o_splat.optim.rule import RuleState

LARGEST_LOG_SCALE, LARGEST_RATE = 13.0, 1e3
"""With scales and rates up to these, and the limits of the kernels, no number of a step leaves float32."""
_ROWS_AT_ONCE = 1024
"""Gaussians that one thread moves at a time."""


def _flat_fields(gaussians: Gaussians) -> tuple[np.ndarray, ...]:
    return flat([value for _, value in gaussians.items()])


class StepOnCpu:
    """One step, looked at and then taken.

    Args:
        gaussians: The scene.
        gradients: Of the step's loss.
        state: Of :class:`l2o_splat.optim.gain.GainRule`; a step changes its moments.
        limits: Of the parameters.
    """

    def __init__(self, gaussians: Gaussians, gradients: Gaussians, state: RuleState, limits: gain_step.Limits) -> None:
        self._parameters, self._gradients = _flat_fields(gaussians), _flat_fields(gradients)
        self._limits = limits
        counts = state["adam_t"]
        least, most = (int(count) for count in counts.aminmax())
        # Vector instructions and the rest of a short tensor are not rounded alike; all entries are to be of one kind.
        self._counts = torch.arange(least, least + 64 * (1 + (most - least) // 64))
        self._moments = gain_step.Moments(
            *(state["adam_m"].numpy(), state["adam_v"].numpy(), counts.numpy(), least),
            *((1 - beta ** (self._counts + 1).float()).numpy() for beta in (BETA1, BETA2)),
            *map(np.float32, (BETA1, 1 - BETA1, BETA2, 1 - BETA2, EPS)),
        )

    def is_bounded(self) -> bool:
        """Whether every number is finite and so small that a step is."""
        return all(self._by_rows(gain_step.are_bounded, self._parameters, self._gradients, self._moments))

    def look(self) -> tuple[Float[Tensor, "n 14"], Float[Tensor, "n 14"]]:
        """Parameters as the network sees them, and Adam directions; both without SH of degree 1 and above."""
        n = len(self._moments.counts)
        seen, directions = (torch.empty(n, gain_step.BASE, dtype=torch.float32) for _ in range(2))
        arguments = (self._parameters, self._gradients, self._moments, self._limits)
        self._by_rows(gain_step.look, *arguments, seen.numpy(), directions.numpy())
        return seen, directions

    def take(
        self,
        answer: Float[Tensor, "n a"],
        rates: Float[Tensor, " 6"],
        shares: Callable[[Float[Tensor, " m"]], tuple[Float[Tensor, " m"], Float[Tensor, " m"]]],
        ages: Float[Tensor, " n"] | None,
        delta: Gaussians | None,
    ) -> None:
        """Update the moments, and move the Gaussians or write what is to be added to them.

        Args:
            answer: Of the network.
            rates: One for each field.
            shares: Factor of the step, and share of the answer in it, of Gaussians of some age.
            ages: Of the Gaussians, the same for all that have taken as many steps; None if these are the ages.
            delta: Takes the step; None moves the Gaussians.
        """
        out = self._parameters if delta is None else _flat_fields(delta)
        self._by_rows(
            gain_step.step,
            *(self._parameters, self._gradients, out, delta is None, self._moments),
            *(*(share.numpy() for share in shares(self._by_count(ages))), answer.numpy(), rates.numpy(), self._limits),
        )

    def _by_count(self, ages: Float[Tensor, " n"] | None) -> Float[Tensor, " m"]:
        """Age of Gaussians that have taken as many steps as an entry of the tables stands for."""
        if ages is None:
            return self._counts.double()
        table = torch.zeros(len(self._counts), dtype=torch.float64)
        table[torch.from_numpy(self._moments.counts) - self._moments.least_count] = ages
        return table

    def _by_rows(self, kernel: Callable, *arguments) -> list:
        """What a kernel returns for all Gaussians, some at a time."""
        n = len(self._moments.counts)

        def work(portion: int):
            begin = portion * _ROWS_AT_ONCE
            return kernel(*arguments, begin, min(begin + _ROWS_AT_ONCE, n))

        return threads.run(work, -(-n // _ROWS_AT_ONCE))
