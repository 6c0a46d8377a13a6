"""Exposure compensation: an affine transform of colours for each training photograph, learnt beside the scene.

As in the reference code of 3DGS (Kerbl et al. 2023) each photograph has a 3 x 3 matrix and an offset that its render
goes through before it is compared. Adam moves them; two things differ from there, since photographs may be few:

* a pull towards the identity, strong for everything but the gains of the three channels;
* the median of all photographs' transforms stays the identity, number by number. A transform of the scene's colours and
  its inverse in all photographs would cancel; this keeps the scene as bright as the photographs in the middle. A mean
  would let one bright photograph darken all others.

With ``only_outliers`` photographs that do not stand out are compared as they are once the others are known: small
differences between photographs tell little about those that are held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2o_splat.optim.shown_rows import adam_direction, rows_shown
from l2o_splat.views import StoredPhotographs, Views

STANDS_OUT = 0.1
"""How much brighter or darker than the others a photograph stands out, as a share."""
KNOWN_AFTER = 0.3
"""Share of the budget from which on it is decided which photographs stand out."""
TIMES_SHOWN = 20
"""Steps that must have shown a photograph before that is decided of it: each moves a gain by a hundredth at most."""

Shown = TypeVar("Shown", StoredPhotographs, Views)


@dataclass(frozen=True)
class ExposureOptions:
    """How transforms are learnt; a gain is a number on the diagonal of a matrix."""

    gain_rate: float = 0.01
    other_rate: float = 0.001
    """Rate of mixed channels and offsets. They imitate a gain poorly, so they must not move faster than the gains."""
    final_factor: float = 0.1
    """Rates at the end of the budget, as a share of those at the start."""
    gain_pull: float = 0.01
    """Weight of the squared difference from 1 in the loss of a photograph."""
    other_pull: float = 1.0
    """Weight of the square."""
    betas: tuple[float, float] = (0.9, 0.99)


class ExposureCompensation:
    """The transforms of a capture's training photographs, and what Adam remembers of them.

    Args:
        photographs: Training photographs, by names that are theirs in any version of the capture.
        device: Of the scene.
        options: How they are learnt.
        only_outliers: Keep those of photographs alone that stand out.
    """

    def __init__(
        self,
        photographs: Sequence[str],
        device: torch.device | str,
        options: ExposureOptions | None = None,
        only_outliers: bool = False,
    ) -> None:
        self.names, self.options, self.only_outliers = list(photographs), options or ExposureOptions(), only_outliers
        identity, gains = torch.eye(3, 4, device=device), torch.eye(3, 4, dtype=torch.bool, device=device)
        self._identity = identity
        self._rates = torch.where(gains, self.options.gain_rate, self.options.other_rate)
        self._pulls = torch.where(gains, self.options.gain_pull, self.options.other_pull)
        count = len(self.names)
        self.transforms: Float[Tensor, "p 3 4"] = identity.repeat(count, 1, 1).requires_grad_()
        """``[A | b]`` of each photograph, from the colours of the scene to its own."""
        self._moments = torch.zeros(2, count, 3, 4, device=device)
        self._ages = torch.zeros(count, 1, 1, device=device)
        self._outlying: Bool[Tensor, " p"] = torch.zeros(count, dtype=torch.bool, device=device)
        """Photographs that have been found to stand out."""
        self._usual: Bool[Tensor, " p"] = self._outlying.clone()
        """Photographs that have been found not to, and are compared as they are."""

    def put_on(self, shown: Sequence[Shown]) -> list[Shown]:
        """Photographs with their transforms; gradients of a loss flow into :attr:`transforms`.

        Raises:
            ValueError: If photographs do not know their places among those that are trained on.
        """
        if any(group.indices is None for group in shown):
            raise ValueError("The photographs have no indices; hand out views of the training photographs with theirs.")
        # Row by row: a list of indices would be sent to a GPU, which waits.
        rows = [torch.stack([self.transforms[index] for index in group.indices]) for group in shown]
        return [replace(group, exposures=exposures) for group, exposures in zip(shown, rows, strict=True)]

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Move the transforms of the photographs that the last loss saw, and forget its gradient.

        Photographs without a gradient, or with one that is not finite, stay as they are but for the common median.

        Args:
            progress: Share of the run's budget that is spent, 0 to 1.
        """
        gradient, self.transforms.grad = self.transforms.grad, None
        if gradient is None:
            return
        shown, options = rows_shown(gradient), self.options
        gradient = gradient + 2 * self._pulls * (self.transforms - self._identity)
        direction = adam_direction(gradient, shown, tuple(self._moments), self._ages, options.betas)
        self.transforms -= self._rates * options.final_factor**progress * direction
        self.transforms -= _median(self.transforms - self._identity)
        if self.only_outliers and progress >= KNOWN_AFTER:
            self._decide()

    def _decide(self) -> None:
        """Tell photographs that stand out from the others, each once; nothing here makes a GPU wait."""
        due = (self._ages.flatten() >= TIMES_SHOWN) & ~self._outlying & ~self._usual
        outlying = (self.gains / _median(self.gains) - 1).abs() > STANDS_OUT
        self._outlying |= due & outlying
        self._usual |= due & ~outlying
        self.transforms.copy_(torch.where(self._usual[:, None, None], self._identity, self.transforms))

    @property
    def gains(self) -> Float[Tensor, " p"]:
        """How bright each photograph is beside the scene: what its transform makes of white, mean over channels."""
        return self.transforms.detach().sum(dim=2).mean(dim=1)

    def describe(self) -> str:
        """Darkest and brightest photograph, or that none stands out, in a sentence."""
        if self._usual.all():
            return f"No training photograph is over {100 * STANDS_OUT:g} % brighter or darker than the others."
        gains = self.gains.tolist()
        (dark, darkest), (bright, brightest) = (choice(zip(gains, self.names, strict=True)) for choice in (min, max))
        return (
            f"Beside the scene the training photographs are between {dark:.2f} ({darkest}) and {bright:.2f} "
            f"({brightest}) times as bright."
        )

    def state(self) -> dict[str, Tensor | list[str]]:
        """What a checkpoint must hold."""
        return {
            "photographs": self.names,
            "transforms": self.transforms.detach().clone(),
            "moments": self._moments.clone(),
            "ages": self._ages.clone(),
            "outlying": self._outlying.clone(),
            "usual": self._usual.clone(),
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor | list[str]]) -> None:
        """Go on as a checkpoint says; photographs that it does not know begin with the identity."""
        saved = {name: row for row, name in enumerate(state["photographs"])}
        rows = [(row, saved[name]) for row, name in enumerate(self.names) if name in saved]
        own, theirs = [row for row, _ in rows], [row for _, row in rows]
        self.transforms[own] = state["transforms"].to(self.transforms)[theirs]
        self._moments[:, own] = state["moments"].to(self._moments)[:, theirs]
        self._ages[own] = state["ages"].to(self._ages)[theirs]
        # Checkpoints of versions without outliers hold neither.
        if self.only_outliers and "outlying" in state:
            self._outlying[own] = state["outlying"].to(self._outlying)[theirs]
            self._usual[own] = state["usual"].to(self._usual)[theirs]


def _median(rows: Tensor) -> Tensor:
    """Median over the first dimension; of an even number of rows, the mean of the two in the middle."""
    ordered, count = rows.sort(dim=0).values, len(rows)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
