"""The gain rule: tuned Adam whose steps a small network makes longer, shorter and a little different (ours).

No paper's. With a network that has not learned anything it is Adam with position steps in units of each Gaussian's own
scale; what is learned is a gain for each Gaussian and field, and a correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.devices import numbers_like
from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.gain_network import GainNetwork
from l2o_splat.nets.gain_shape import GainNetworkShape
from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.optim.adam_moments import adam_direction, zero_moments
from l2o_splat.optim.in_place import kernels_can_use
from l2o_splat.optim.proposal import (
    PrecisionName,
    Proposal,
    ProposingRule,
    autocast,
    check_neighbours,
    check_precision_name,
    network_dtype,
)
from l2o_splat.optim.rule import Feedback, Moments, RuleState, digest_of
from l2o_splat.scene import SceneStart

MEANS, SCALES, OPACITY = (Gaussians.columns(name) for name in ("means", "scales", "opacities"))
HARMONICS = slice(Gaussians.columns("features_dc").start, None)
"""Columns of :meth:`Gaussians.pack`; those of all SH bands, degree 0 first."""
REFERENCE_STEPS = 300
"""With so many the steps at the end of a budget are a quarter of those at its start, about as those of tuned Adam."""


@dataclass(frozen=True)
class GainConfig:
    """Behaviour that the tensors of the weights do not tell."""

    neighbours: int = 6
    """Gaussians each one attends to, itself among them."""
    knn_refresh_interval: int = 100
    """Steps between neighbour searches."""
    log_scale_range: tuple[float, float] = (-6.0, 4.0)
    """Log-scales are clamped to this range around the median of the scene's start, before and after every step."""
    opacity_logit_limit: float = 7.0
    """Opacity logits are clamped to plus and minus this before every step."""
    sh_limit: float = 4.0
    """SH coefficients are clamped to plus and minus this after every step."""
    step_decay: tuple[float, float] | None = (60.0, 0.8)
    """With (a, p) the steps of a Gaussian shrink as (1 + t / a) ** -p over its own age t; None keeps them."""
    query_growth: float | None = 20.0
    """What the network answers at step t serves 1 + t / query_growth steps, rounded down, so that its cost fades as the
    scene settles. None queries it in every step."""
    trust_decay: float | None = 20.0
    """The share of the network in the step of a Gaussian falls as 1 / (1 + t / trust_decay) over its own age t, and the
    rest is Adam. None keeps it whole."""
    precision: PrecisionName = "auto"
    """Arithmetic of the network; auto is bfloat16 autocast on CUDA, as in training, and float32 elsewhere."""
    reference_steps: int = field(default=REFERENCE_STEPS, repr=False)
    """In a run with a time budget a Gaussian ages by so many steps per budget, whatever steps it takes: ``step_decay``
    and ``trust_decay`` take its age for its step count. The network is queried by steps all the same."""

    def __post_init__(self) -> None:
        # JSON has no tuples, and the same options must read the same in a fingerprint.
        object.__setattr__(self, "log_scale_range", tuple(self.log_scale_range))
        if self.step_decay is not None:
            object.__setattr__(self, "step_decay", tuple(self.step_decay))
        if self.knn_refresh_interval < 1:
            raise ValueError(f"knn_refresh_interval is {self.knn_refresh_interval}; at least 1 step is needed.")
        if self.reference_steps < 1:
            raise ValueError(f"reference_steps is {self.reference_steps}; at least 1 step is needed.")
        for name in ("query_growth", "trust_decay"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; a number above 0, or None, is needed.")
        check_precision_name(self.precision)


class GainRule(ProposingRule):
    """Adam's step times learned gains, plus learned corrections.

    Nothing depends on the unit of length: position steps are in units of each Gaussian's own mean scale, and log-scales
    count from the median of the scene's start.

    State: ``latent [n l]``, ``adam_m [n d]``, ``adam_v [n d]``, ``adam_t [n]`` (int64), ``neighbours [n k]`` (int64),
    ``answer [n a]`` while one serves several steps, and ``begun [n]`` (float64), the share of the time budget at which
    each Gaussian began, in runs that have one; of the scene ``scale_origin []``, the median log-scale of its start.
    """

    system = "gain"
    network_type = GainNetwork
    shape_type = GainNetworkShape
    config_type = GainConfig

    def __init__(self, network: GainNetwork, config: GainConfig = GainConfig()) -> None:
        super().__init__(network, config)

    @property
    def fingerprint(self) -> str:
        steps = self.config.reference_steps
        aging = "" if steps == REFERENCE_STEPS else f" aging {steps} steps per budget"
        return f"gain weights {digest_of(self.network)} {self.config}{aging}"

    def init_state(self, start: SceneStart) -> RuleState:
        gaussians = start.gaussians.detach()
        n, device = len(gaussians), gaussians.device
        latent = torch.zeros(n, self.network.shape.latent_width, device=device)
        rows = {"latent": latent.to(network_dtype(self.config.precision, device))}
        rows |= zero_moments(n, gaussians.pack().shape[1], device)
        origin = gaussians.scales.median() if n else gaussians.scales.new_zeros(())
        return RuleState(rows, {"scale_origin": origin})

    def propose(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> Proposal:
        """Gains and corrections as a step, before it is limited.

        Raises:
            ValueError: If there are fewer Gaussians than neighbours wanted.
        """
        config, step = self.config, feedback.step
        check_neighbours(len(gaussians), config.neighbours)
        parameters, gradients = self._read(gaussians, state["scale_origin"]), feedback.gradients.detach().pack()
        direction, changed = adam_direction(gradients, state)
        answer, more = self._answer(parameters[:, MEANS], step, state, lambda: (parameters, direction))
        ages, begun = self._ages(feedback, state)
        decays, blends = self._shares(state["adam_t"].double() if ages is None else ages)
        proposed = self.network.step(answer, direction, blends, self._rates(feedback))
        if config.step_decay is not None:
            proposed *= decays[:, None]
        return Proposal(None, parameters, gradients, direction, proposed, state.updated(**changed, **more, **begun))

    def _rates(self, feedback: Feedback) -> Float[Tensor, " 6"]:
        """Rate of each field in a step; what the moments forget is fixed, whatever a controller asks for."""
        rates = self.network.rates
        return rates if feedback.gains is None else rates * numbers_like(rates, list(feedback.gains.rates.values()))

    def _answer(
        self,
        means: Float[Tensor, "n 3"],
        step: int,
        state: RuleState,
        look: Callable[[], tuple[Float[Tensor, "n _"], Float[Tensor, "n _"]]],
    ) -> tuple[Float[Tensor, "n a"], dict[str, Tensor]]:
        """What the network answers, in this step or an earlier one, and what has changed of the state.

        Args:
            means: Of the scene.
            step: Inner step.
            state: Before the step.
            look: Computes parameters and Adam direction as the network sees them; called if it is queried.
        """
        config, changed = self.config, {}
        neighbours, answer = state.get("neighbours"), state.get("answer")
        if neighbours is None or step % config.knn_refresh_interval == 0:
            neighbours = nearest_neighbours(means, config.neighbours)
        if config.knn_refresh_interval > 1:
            changed["neighbours"] = neighbours
        if answer is None or self._queries_at(step):
            parameters, direction = look()
            with autocast(config.precision, means.device):
                latent = state["latent"].to(network_dtype(config.precision, means.device))
                answer, changed["latent"] = self.network(parameters, latent, direction, neighbours)
            if config.query_growth is not None:
                changed["answer"] = answer
        return answer, changed

    def _ages(
        self, feedback: Feedback, state: RuleState
    ) -> tuple[Float[Tensor, " n"] | None, dict[str, Float[Tensor, " n"]]]:
        """Age of each Gaussian, in steps of a run of ``reference_steps``, and what the next state holds of it.

        None for the ages, and nothing, if the run has no time budget: then they are the step counts.
        """
        if feedback.progress is None:
            return None, {}
        counts, per_budget = state["adam_t"], self.config.reference_steps
        # A run that counted steps so far goes on at the ages that it has come to.
        before = state["begun"] if "begun" in state else feedback.progress - counts.double() / per_budget
        begun = torch.where(counts == 0, feedback.progress, before)
        return per_budget * (feedback.progress - begun), {"begun": begun}

    def _shares(self, ages: Float[Tensor, " m"]) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Factor of the step, and share of the network in it, of Gaussians of some age; float32."""
        decays = blends = torch.ones_like(ages, dtype=torch.float32)
        if self.config.step_decay is not None:
            after, power = self.config.step_decay
            decays = (1 + ages.float() / after).pow(-power)
        if self.config.trust_decay is not None:
            blends = (1 / (1 + ages / self.config.trust_decay)).float()
        return decays, blends

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        if not kernels_can_use(gaussians.means):
            return super().forward(gaussians, feedback, state)
        delta = gaussians.map(torch.empty_like)
        copied = state.updated(adam_m=state["adam_m"].clone(), adam_v=state["adam_v"].clone())
        new_state = self._step_on_cpu(gaussians, feedback, copied, delta)
        return super().forward(gaussians, feedback, state) if new_state is None else (delta, new_state)

    @torch.no_grad()
    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        new_state = self._step_on_cpu(gaussians, feedback, state, None)
        return super().step_in_place(gaussians, feedback, state) if new_state is None else new_state

    def _step_on_cpu(
        self, gaussians: Gaussians, feedback: Feedback, state: RuleState, delta: Gaussians | None
    ) -> RuleState | None:
        """A step by kernels, which change the moments of the state; the state after it.

        Args:
            gaussians: The scene.
            feedback: Of the step.
            state: Before the step.
            delta: Takes what is to be added to the scene; None adds it.

        Returns:
            None, and nothing has changed, if they cannot take it, or may meet numbers that are not finite.
        """
        config, network = self.config, self.network
        tensors = [value for _, value in (*gaussians.items(), *feedback.gradients.items())]
        in_memory = kernels_can_use(*tensors, state["adam_m"], state["adam_v"], network.rates, network.head.weight)
        if not in_memory or network_dtype(config.precision, gaussians.device) != torch.float32:
            return None
        from l2o_splat.nets.gain_step import Limits, is_bounded_answer
        from l2o_splat.optim.gain_on_cpu import LARGEST_LOG_SCALE, LARGEST_RATE, StepOnCpu

        origin = float(state["scale_origin"])
        largest = config.log_scale_range[1] + origin
        rates = self._rates(feedback)
        if not largest <= LARGEST_LOG_SCALE or not rates.abs().max() <= LARGEST_RATE:
            return None
        check_neighbours(len(gaussians), config.neighbours)
        limits = Limits(
            *map(np.float32, (origin, *config.log_scale_range, config.opacity_logit_limit, config.sh_limit))
        )
        step = StepOnCpu(gaussians, feedback.gradients, state, limits)
        if not step.is_bounded():
            return None
        answer, changed = self._answer(gaussians.means, feedback.step, state, step.look)
        answer = answer.contiguous()
        if not is_bounded_answer(answer.view(-1).numpy()):
            return None
        ages, begun = self._ages(feedback, state)
        step.take(answer, rates, self._shares, ages, delta)
        return state.updated(**changed, **begun, adam_t=state["adam_t"] + 1)

    def delta(self, gaussians: Gaussians, proposal: Proposal) -> Gaussians:
        """What to add to the Gaussians so that they become ``clamp(parameters + step)``."""
        origin = proposal.state["scale_origin"]
        moved = proposal.parameters + proposal.step
        log_scales = moved[:, SCALES].clamp(*self.config.log_scale_range) + origin
        harmonics = moved[:, HARMONICS].clamp(-self.config.sh_limit, self.config.sh_limit)
        own_scale = (proposal.parameters[:, SCALES] + origin).exp().mean(dim=1, keepdim=True)
        means = proposal.parameters[:, MEANS] + own_scale * proposal.step[:, MEANS]
        between = moved[:, SCALES.stop : HARMONICS.start]
        target = torch.cat([means, log_scales, between, harmonics], dim=1)
        return Gaussians.unpack(target - gaussians.detach().pack())

    def work_at(self, step: int) -> str:
        # A neighbour search in one of a hundred steps hardly shows.
        return "query" if self._queries_at(step) else "no query"

    def insight(self, state: RuleState, step: int) -> dict[str, Tensor]:
        """``age``: the steps that a Gaussian has taken, as a share of those of the oldest. ``gain``: how much longer or
        shorter than Adam's the network wants its steps, the mean over fields on a logarithmic scale: 0 a quarter, 0.5
        as long, 1 four times as long."""
        if "adam_t" not in state:
            return {}
        known = {"age": state["adam_t"] / state["adam_t"].max().clamp(min=1)}
        if "answer" in state:
            known["gain"] = (0.5 + self.network.log_gains(state["answer"]) / (2 * math.log(4))).clamp(0, 1)
        return known

    def moments(self, state: RuleState, field: str) -> list[Moments]:
        return [Moments(name, Gaussians.columns(field), power) for name, power in (("adam_m", 1), ("adam_v", 2))]

    def before_unroll(self, state: RuleState) -> RuleState:
        """An answer from before has no graph to learn from, so that the first recorded step queries the network."""
        return state.without("answer")

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """Added Gaussians take latent state and answer from their parents; moments and age start at zero."""
        resized = super().resize_state(state.without("neighbours"), source, fresh)
        inherited = ("latent", "answer")
        return resized.updated(**{name: state[name][source] for name in inherited if name in state})

    def _queries_at(self, step: int) -> bool:
        """Whether the network is queried in a step."""
        if self.config.query_growth is None:
            return True
        query = 0
        while query < step:
            query += 1 + int(query / self.config.query_growth)
        return query == step

    def _read(self, gaussians: Gaussians, scale_origin: Float[Tensor, ""]) -> Float[Tensor, "n d"]:
        """Parameters as the network sees them."""
        rows, limit = gaussians.detach().pack(), self.config.opacity_logit_limit
        rows[:, SCALES] -= scale_origin
        rows[:, SCALES].clamp_(*self.config.log_scale_range)
        rows[:, OPACITY].clamp_(-limit, limit)
        return rows
