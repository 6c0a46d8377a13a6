"""The gain rule: tuned Adam whose steps a small network makes longer, shorter and a little different (ours).

No paper's. With a network that has not learned anything it is Adam with position steps in units of each Gaussian's own
scale; what is learned is a gain for each Gaussian and field, and a correction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.gain_network import GainNetwork
from l2o_splat.nets.gain_shape import GainNetworkShape
from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.optim.adam_moments import adam_direction, zero_moments
from l2o_splat.optim.proposal import (
    PrecisionName,
    Proposal,
    ProposingRule,
    autocast,
    check_neighbours,
    check_precision_name,
    network_dtype,
)
from l2o_splat.optim.rule import Columns, Feedback, RuleState, digest_of
from l2o_splat.scene import SceneStart

MEANS, SCALES, OPACITY = (Gaussians.columns(name) for name in ("means", "scales", "opacities"))
HARMONICS = slice(Gaussians.columns("features_dc").start, None)
"""Columns of :meth:`Gaussians.pack`; those of all SH bands, degree 0 first."""


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
    """With (a, p) the steps of a Gaussian shrink as (1 + t / a) ** -p over its own step count t; None keeps them."""
    query_growth: float | None = 20.0
    """What the network answers at step t serves 1 + t / query_growth steps, rounded down, so that its cost fades as the
    scene settles. None queries it in every step."""
    trust_decay: float | None = 20.0
    """The share of the network in a step falls as 1 / (1 + t / trust_decay), and the rest is Adam. None keeps it whole.
    """
    precision: PrecisionName = "auto"
    """Arithmetic of the network; auto is bfloat16 autocast on CUDA, as in training, and float32 elsewhere."""

    def __post_init__(self) -> None:
        # JSON has no tuples, and the same options must read the same in a fingerprint.
        object.__setattr__(self, "log_scale_range", tuple(self.log_scale_range))
        if self.step_decay is not None:
            object.__setattr__(self, "step_decay", tuple(self.step_decay))
        if self.knn_refresh_interval < 1:
            raise ValueError(f"knn_refresh_interval is {self.knn_refresh_interval}; at least 1 step is needed.")
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
    and ``answer [n a]`` while one serves several steps; of the scene ``scale_origin []``, the median log-scale of its
    start.
    """

    system = "gain"
    network_type = GainNetwork
    shape_type = GainNetworkShape
    config_type = GainConfig

    def __init__(self, network: GainNetwork, config: GainConfig = GainConfig()) -> None:
        super().__init__(network, config)

    @property
    def fingerprint(self) -> str:
        return f"gain weights {digest_of(self.network)} {self.config}"

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
        neighbours = state.get("neighbours")
        if neighbours is None or step % config.knn_refresh_interval == 0:
            neighbours = nearest_neighbours(parameters[:, MEANS], config.neighbours)
        if config.knn_refresh_interval > 1:
            changed["neighbours"] = neighbours
        answer = state.get("answer")
        if answer is None or self._queries_at(step):
            with autocast(config.precision, parameters.device):
                latent = state["latent"].to(network_dtype(config.precision, parameters.device))
                answer, changed["latent"] = self.network(parameters, latent, direction, neighbours)
            if config.query_growth is not None:
                changed["answer"] = answer
        trust = 1.0 if config.trust_decay is None else 1 / (1 + step / config.trust_decay)
        proposed = self.network.step(answer, direction, trust)
        if config.step_decay is not None:
            after, power = config.step_decay
            proposed *= (1 + state["adam_t"] / after).pow(-power)[:, None]
        return Proposal(None, parameters, gradients, direction, proposed, state.updated(**changed))

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

    def moments(self, state: RuleState, field: str) -> list[tuple[str, Columns]]:
        return [(name, Gaussians.columns(field)) for name in ("adam_m", "adam_v")]

    def before_unroll(self, state: RuleState) -> RuleState:
        """An answer from before has no graph to learn from, so that the first recorded step queries the network."""
        return state.without("answer")

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """Added Gaussians take latent state, counter and answer from their parents and start with zero moments."""
        resized = super().resize_state(state.without("neighbours"), source, fresh)
        inherited = ("latent", "adam_t", "answer")
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
