"""Adam as an update rule, with the rates that 3D Gaussian Splatting is used to and two stronger presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.in_place import kernels_can_use
from l2o_splat.optim.rule import Columns, Feedback, RuleState, UpdateRule
from l2o_splat.scene import SceneStart

AdamPreset = Literal["gsplat", "x5", "own-scale"]


@dataclass(frozen=True)
class Rates:
    """One number per field."""

    means: float
    scales: float
    quats: float
    opacities: float
    features_dc: float
    features_rest: float


@dataclass(frozen=True)
class AdamOptions:
    """Rates and moments of :class:`AdamRule`."""

    rates: Rates
    """Step sizes at the start, in the units of each unactivated parameter; those of the means in ``means_unit``."""
    means_unit: Literal["scene_extent", "own_scale"]
    """Unit of the rate of the means: the extent of the cameras, or each Gaussian's own mean scale."""
    final_factor: Rates
    """Rate at the horizon divided by the rate at the start; exponential in between, constant beyond."""
    horizon: int
    """Steps over which decaying rates decay; in runs with a time budget they decay over the budget instead."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-15
    drawn_only: bool = field(default=False, repr=False)
    """Leave Gaussians whose gradients are all zero, since no view of the step shows them, exactly as they are. Off,
    they drift on as their momentum says and their moments decay. The bias corrections count all steps either way, as
    ``torch.optim.SparseAdam`` has it, so that a Gaussian that is seen for the first time late in a run begins with
    steps several times as long."""

    @property
    def decays(self) -> bool:
        """Whether any rate depends on the horizon."""
        return any(factor != 1 for factor in asdict(self.final_factor).values())


_CONSTANT = Rates(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

_GSPLAT_RATES = Rates(1.6e-4, 5e-3, 1e-3, 5e-2, 2.5e-3, 2.5e-3 / 20)

_PRESETS: dict[str, AdamOptions] = {
    # Rates of 3DGS (arXiv 2308.04079) as in gsplat's trainer.
    "gsplat": AdamOptions(_GSPLAT_RATES, "scene_extent", replace(_CONSTANT, means=0.01), horizon=0),
    # The tuned baseline of Learn2Splat (arXiv 2605.15760): all rates times five, means not decaying, slower momentum.
    "x5": AdamOptions(
        Rates(**{name: 5 * rate for name, rate in asdict(_GSPLAT_RATES).items()}),
        "scene_extent",
        _CONSTANT,
        horizon=0,
        beta1=0.99,
    ),
    # Position steps follow the size of each Gaussian, so large and small ones cross their own footprint alike.
    # Rates: benchmarks/tune_adam.py, on procedural training captures alone.
    "own-scale": AdamOptions(
        Rates(0.16, 0.115, 0.296, 0.6, 0.156, 0.0207),
        "own_scale",
        Rates(0.3, 0.3, 0.3, 0.3, 0.3, 0.3),
        horizon=0,
    ),
}


def adam_options(preset: AdamPreset, horizon: int) -> AdamOptions:
    """Options of a named preset whose decaying rates decay over ``horizon`` steps.

    Raises:
        ValueError: for an unknown preset or a horizon below 1.
    """
    if preset not in _PRESETS:
        raise ValueError(f"Adam preset {preset!r} is unknown; choose one of {sorted(_PRESETS)}.")
    if horizon < 1:
        raise ValueError(f"The horizon is {horizon} steps; give the number of steps the rates decay over, at least 1.")
    return replace(_PRESETS[preset], horizon=horizon)


SPLATFACTO = replace(adam_options("gsplat", horizon=1), final_factor=_CONSTANT)
"""Splatfacto's rates, constant."""


class AdamRule(UpdateRule):
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1) on all six fields.

    With the same rates it equals one ``torch.optim.Adam`` per field, bit for bit on the CPU: the
    operations and their order are the same.
    """

    def __init__(self, options: AdamOptions) -> None:
        super().__init__()
        self.options = options

    @property
    def fingerprint(self) -> str:
        return f"adam {self.options}" + (" of drawn Gaussians" if self.options.drawn_only else "")

    def init_state(self, start: SceneStart) -> RuleState:
        moments = ("exp_avg", "exp_avg_sq")
        fields = list(start.gaussians.items())
        return RuleState({f"{moment}.{name}": torch.zeros_like(value) for moment in moments for name, value in fields})

    def moments(self, state: RuleState, field: str) -> list[tuple[str, Columns]]:
        return [(f"{moment}.{field}", slice(None)) for moment in ("exp_avg", "exp_avg_sq")]

    def rate(self, field: str, step: int, progress: float | None = None) -> float:
        """Step size of a field, before ``means_unit``.

        Args:
            field: One of ``FIELDS``.
            step: Inner step.
            progress: Share of the time budget spent before it; None decays by steps.
        """
        share = min(step / self.options.horizon if progress is None else progress, 1.0)
        return getattr(self.options.rates, field) * getattr(self.options.final_factor, field) ** share

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        options, factors = self.options, self._factors(feedback)
        deltas: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for name in FIELDS:
            gradient = getattr(feedback.gradients, name)
            exp_avg = state[f"exp_avg.{name}"].lerp(gradient, 1 - options.beta1)
            exp_avg_sq = (state[f"exp_avg_sq.{name}"] * options.beta2).addcmul_(
                gradient, gradient, value=1 - options.beta2
            )
            moments[f"exp_avg.{name}"], moments[f"exp_avg_sq.{name}"] = exp_avg, exp_avg_sq
            denominator = (exp_avg_sq.sqrt() / self._root_correction(feedback)).add_(options.eps)
            deltas[name] = (exp_avg * factors[name]) / denominator
        if options.means_unit == "own_scale":
            deltas["means"] *= _own_scales(gaussians)
        if options.drawn_only:
            drawn = torch.stack([rows.flatten(1).any(dim=1) for _, rows in feedback.gradients.items()]).any(dim=0)
            _hold(~drawn, deltas, {name: torch.zeros_like(delta) for name, delta in deltas.items()})
            _hold(~drawn, moments, state)
        return Gaussians(**deltas), RuleState(moments)

    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        betas, eps = (self.options.beta1, self.options.beta2), self.options.eps
        parameters = [value for _, value in gaussians.items()]
        gradients = [value.contiguous() for _, value in feedback.gradients.items()]
        moments = [[state[f"{moment}.{name}"] for name in FIELDS] for moment in ("exp_avg", "exp_avg_sq")]
        factors = list(self._factors(feedback).values())
        if not kernels_can_use(*parameters, *gradients, *moments[0], *moments[1]):
            return super().step_in_place(gaussians, feedback, state)
        from l2o_splat.optim import adam_kernel

        if not adam_kernel.can_step(betas, factors, eps):
            return super().step_in_place(gaussians, feedback, state)
        own_scales = (
            _own_scales(gaussians)[:, 0]
            if self.options.means_unit == "own_scale"
            else torch.empty(0, dtype=torch.float32)
        )
        moved = adam_kernel.step_in_place(
            *(parameters, gradients, *moments, own_scales),
            *(betas, factors, self._root_correction(feedback), eps, self.options.drawn_only),
        )
        return state if moved else None

    def _factors(self, feedback: Feedback) -> dict[str, float]:
        """What the first moment of each field is multiplied by."""
        factors = {}
        for name in FIELDS:
            rate = self.rate(name, feedback.step, feedback.progress)
            if name == "means" and self.options.means_unit == "scene_extent":
                rate *= feedback.scene_extent
            factors[name] = -(rate / (1 - self.options.beta1 ** (feedback.step + 1)))
        return factors

    def _root_correction(self, feedback: Feedback) -> float:
        """What the root of the second moments is divided by."""
        return (1 - self.options.beta2 ** (feedback.step + 1)) ** 0.5


def _own_scales(gaussians: Gaussians) -> Float[Tensor, "n 1"]:
    return gaussians.scales.exp().mean(dim=1, keepdim=True)


def _hold(held: Bool[Tensor, " n"], rows: dict[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Set the rows of some Gaussians back to what they were before."""
    for name, value in rows.items():
        rows[name] = torch.where(held.view(-1, *[1] * (value.ndim - 1)), before[name], value)
