"""Adam as an update rule, with the rates that 3D Gaussian Splatting is used to and two stronger presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.in_place import kernels_can_use
from l2o_splat.optim.rule import Feedback, Moments, RuleState, UpdateRule
from l2o_splat.scene import SceneStart
from l2o_splat.schedule.controller import Gains

AdamPreset = Literal["gsplat", "x5", "own-scale"]

BORN_NEXT = -1
"""In ``born``: of a Gaussian that was added after the last step."""


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
    they drift on as their momentum says and their moments decay. With it, the bias corrections of a Gaussian count the
    steps in which it was drawn, so that its first step is as long as any other's however late it comes."""

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


def adam_options(preset: AdamPreset, horizon: int, rates: float = 1.0) -> AdamOptions:
    """Options of a named preset.

    Args:
        preset: Its name.
        horizon: Steps over which decaying rates decay.
        rates: Factor of all rates.

    Raises:
        ValueError: for an unknown preset or a horizon below 1.
    """
    if preset not in _PRESETS:
        raise ValueError(f"Adam preset {preset!r} is unknown; choose one of {sorted(_PRESETS)}.")
    if horizon < 1:
        raise ValueError(f"The horizon is {horizon} steps; give the number of steps the rates decay over, at least 1.")
    chosen = _PRESETS[preset]
    if rates != 1:
        chosen = replace(chosen, rates=Rates(**{name: rates * rate for name, rate in asdict(chosen.rates).items()}))
    return replace(chosen, horizon=horizon)


SPLATFACTO = replace(adam_options("gsplat", horizon=1), final_factor=_CONSTANT)
"""Splatfacto's rates, constant."""
OWN_SCALE = replace(adam_options("own-scale", horizon=1), final_factor=_CONSTANT)
"""Those of adam-own-scale, constant."""


class AdamRule(UpdateRule):
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1) on all six fields.

    With the same rates it equals one ``torch.optim.Adam`` per field, bit for bit on the CPU: the
    operations and their order are the same. Bias corrections count each Gaussian's own steps.

    State: ``exp_avg`` and ``exp_avg_sq`` of each field; ``born [n]`` (int64), the step in which each Gaussian began,
    once they differ.
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

    def moments(self, state: RuleState, field: str) -> list[Moments]:
        return [Moments(f"{name}.{field}", slice(None), power) for name, power in (("exp_avg", 1), ("exp_avg_sq", 2))]

    def rate(self, field: str, step: int, progress: float | None = None) -> float:
        """Step size of a field, before ``means_unit``.

        Args:
            field: One of ``FIELDS``.
            step: Inner step.
            progress: Share of the time budget spent before it; None decays by steps.
        """
        share = min(step / self.options.horizon if progress is None else progress, 1.0)
        return getattr(self.options.rates, field) * getattr(self.options.final_factor, field) ** share

    def controlled(self, gains: Gains) -> AdamRule:
        """The rule of a step whose rates and averages a controller changes.

        Bias corrections are those of these betas, as if they had been constant.
        """
        options = self.options
        rates = Rates(**{name: gains.rates[name] * rate for name, rate in asdict(options.rates).items()})
        beta1 = 1 - gains.forgetting * (1 - options.beta1)
        beta2 = 1 - gains.forgetting_squares * (1 - options.beta2)
        return AdamRule(replace(options, rates=rates, beta1=beta1, beta2=beta2))

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        if feedback.gains is not None:
            return self.controlled(feedback.gains)(gaussians, replace(feedback, gains=None), state)
        # One launch for the six fields on a GPU, where so small operations cost their launch.
        options, (factors, root_corrections) = self.options, self._by_field(feedback, state)
        gradients = [value for _, value in feedback.gradients.items()]
        exp_avg = torch._foreach_lerp(_moments(state, "exp_avg"), gradients, 1 - options.beta1)
        exp_avg_sq = torch._foreach_mul(_moments(state, "exp_avg_sq"), options.beta2)
        torch._foreach_addcmul_(exp_avg_sq, gradients, gradients, 1 - options.beta2)
        denominators = torch._foreach_div(torch._foreach_sqrt(exp_avg_sq), root_corrections)
        torch._foreach_add_(denominators, options.eps)
        steps = torch._foreach_div(torch._foreach_mul(exp_avg, factors), denominators)
        deltas = dict(zip(FIELDS, steps, strict=True))
        if options.means_unit == "own_scale":
            deltas["means"] *= _own_scales(gaussians)
        moments = {f"exp_avg.{name}": value for name, value in zip(FIELDS, exp_avg, strict=True)}
        moments |= {f"exp_avg_sq.{name}": value for name, value in zip(FIELDS, exp_avg_sq, strict=True)}
        if options.drawn_only:
            drawn = torch.stack([rows.flatten(1).any(dim=1) for rows in gradients]).any(dim=0)
            _hold(~drawn, deltas, {name: torch.zeros_like(delta) for name, delta in deltas.items()})
            _hold(~drawn, moments, state)
        else:
            drawn = None
        return Gaussians(**deltas), RuleState(moments | _born(feedback, state, drawn))

    @torch.no_grad()
    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        if feedback.gains is not None:
            return self.controlled(feedback.gains).step_in_place(gaussians, replace(feedback, gains=None), state)
        moved = self._step_by_kernels(gaussians, feedback, state)
        if moved is not None:
            return moved or None
        delta, new_state = self(gaussians, feedback, state)
        # A gradient that is not finite makes a step that is not.
        if not delta.all_finite():
            return None
        torch._foreach_add_([value for _, value in gaussians.items()], [value for _, value in delta.items()])
        return new_state

    def _step_by_kernels(
        self, gaussians: Gaussians, feedback: Feedback, state: RuleState
    ) -> RuleState | Literal[False] | None:
        """A step on the CPU in one pass; None if the kernels do not know it, False if a number may not stay finite."""
        betas, eps = (self.options.beta1, self.options.beta2), self.options.eps
        parameters = [value for _, value in gaussians.items()]
        gradients = [value.contiguous() for _, value in feedback.gradients.items()]
        moments = [_moments(state, name) for name in ("exp_avg", "exp_avg_sq")]
        if not kernels_can_use(*parameters, *gradients, *moments[0], *moments[1]):
            return None
        from l2o_splat.optim import adam_kernel

        ages, factors, root_corrections = self._by_age(feedback, state)
        if not adam_kernel.can_step(betas, factors.abs().amax().item(), eps):
            return None
        none = torch.empty(0, dtype=torch.float32)
        drawn = torch.empty(len(gaussians) if self.options.drawn_only else 0, dtype=torch.bool)
        moved = adam_kernel.step_in_place(
            *(parameters, gradients, *moments),
            _own_scales(gaussians)[:, 0] if self.options.means_unit == "own_scale" else none,
            adam_kernel.Ages(none.long() if ages is None else ages, factors, root_corrections),
            *(betas, eps, drawn),
        )
        if not moved:
            return False
        born = _born(feedback, state, drawn if self.options.drawn_only else None)
        return state.updated(**born) if born else state

    def _by_age(
        self, feedback: Feedback, state: RuleState
    ) -> tuple[Int[Tensor, " n"] | None, Float[Tensor, "6 ages"], Float[Tensor, " ages"]]:
        """Which entry of tables by age each Gaussian has, what first moments of each field are multiplied by, and what
        roots of second moments are divided by. No entries, but tables of one, if all are as old as the run."""
        ages = _ages(feedback, state)
        if ages is None:
            corrections = self._corrections(feedback.step)
            factors = [[-(rate / corrections[0])] for rate in self._rates(feedback)]
            return None, torch.tensor(factors), torch.tensor([corrections[1]])
        least, most = (int(age) for age in ages.aminmax()) if len(ages) else (0, 0)
        first, root = self._corrections(torch.arange(least, most + 1, dtype=torch.float64))
        factors = torch.stack([-(rate / first) for rate in self._rates(feedback)])
        return ages - least, factors.float(), root.float()

    def _by_field(
        self, feedback: Feedback, state: RuleState
    ) -> tuple[list[float] | list[Tensor], list[float] | list[Tensor]]:
        """What first moments of each field are multiplied by, and what roots of second moments are divided by: numbers,
        or one for each Gaussian."""
        ages = _ages(feedback, state)
        if ages is None:
            first, root = self._corrections(feedback.step)
            return [-(rate / first) for rate in self._rates(feedback)], [root] * len(FIELDS)
        if ages.device.type == "cpu":
            entries, factors, root = self._by_age(feedback, state)
            factors, root = factors[:, entries], root[entries]
        else:
            # A table would have to be copied to the device, which waits for it.
            first, root = self._corrections(ages.double())
            factors = torch._foreach_mul([(-1 / first).float()] * len(FIELDS), self._rates(feedback))
            root = root.float()
        shapes = [(-1, 1, 1) if name == "features_rest" else (-1, 1) for name in FIELDS]
        return (
            [factor.view(shape) for factor, shape in zip(factors, shapes, strict=True)],
            [root.view(shape) for shape in shapes],
        )

    def _rates(self, feedback: Feedback) -> list[float]:
        """Step size of each field."""
        rates = {name: self.rate(name, feedback.step, feedback.progress) for name in FIELDS}
        if self.options.means_unit == "scene_extent":
            rates["means"] *= feedback.scene_extent
        return list(rates.values())

    def _corrections(self, age: float | Float[Tensor, " m"]) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Bias correction of first moments, and the square root of that of second moments, after ``age`` steps and the
        one to come."""
        return 1 - self.options.beta1 ** (age + 1), (1 - self.options.beta2 ** (age + 1)) ** 0.5

    def insight(self, state: RuleState, step: int) -> dict[str, Tensor]:
        """``age``: the steps that a Gaussian has taken, as a share of those of the oldest."""
        if "born" not in state:
            return {"age": torch.ones_like(_moments(state, "exp_avg")[0][:, 0])}
        ages = torch.where(state["born"] == BORN_NEXT, 0, step - state["born"])
        return {"age": ages / ages.max().clamp(min=1)}

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """Added Gaussians start with zero moments and an age of zero."""
        resized = super().resize_state(state, source, fresh)
        if "born" not in state and not fresh.any():
            return resized
        born = state["born"][source] if "born" in state else torch.zeros_like(source)
        return resized.updated(born=torch.where(fresh, BORN_NEXT, born))


def _moments(state: RuleState, name: str) -> list[Tensor]:
    return [state[f"{name}.{field}"] for field in FIELDS]


def _ages(feedback: Feedback, state: RuleState) -> Int[Tensor, " n"] | None:
    """Steps that each Gaussian has taken; None if all are as old as the run, which no one need look up then."""
    if "born" not in state:
        return None
    return torch.where(state["born"] == BORN_NEXT, 0, feedback.step - state["born"])


def _born(feedback: Feedback, state: RuleState, drawn: Bool[Tensor, " n"] | None) -> dict[str, Int[Tensor, " n"]]:
    """The part of the next state from which ages follow; None for ``drawn`` if all take the step."""
    if drawn is None and "born" not in state:
        return {}
    ages = _ages(feedback, state)
    born = torch.full(drawn.shape, 0, device=drawn.device) if ages is None else feedback.step - ages
    return {"born": born if drawn is None else born + ~drawn}


def _own_scales(gaussians: Gaussians) -> Float[Tensor, "n 1"]:
    return gaussians.scales.exp().mean(dim=1, keepdim=True)


def _hold(held: Bool[Tensor, " n"], rows: dict[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Set the rows of some Gaussians back to what they were before."""
    for name, value in rows.items():
        rows[name] = torch.where(held.view(-1, *[1] * (value.ndim - 1)), before[name], value)
