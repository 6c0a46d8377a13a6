"""Learn2Splat (arXiv 2605.15760): a point transformer proposes the step of every Gaussian."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.frame import Frame, FrameConvention
from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.gain_network import GainNetwork, GainNetworkShape
from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.nets.update_network import SH_START, UpdateNetwork, UpdateNetworkShape
from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule, digest_of
from l2o_splat.scene import SceneKnowledge
from l2o_splat.weights.format import Weights, WeightsCard

logger = logging.getLogger(__name__)

BETA1, BETA2, EPS = 0.9, 0.999, 1e-15
"""Moments of the Adam direction; the weights are trained with these."""


@dataclass(frozen=True)
class Learn2SplatConfig:
    """Behaviour that the tensors of the weights do not tell; the defaults are those of the released weights."""

    neighbours: int = 4
    """Gaussians each one attends to, itself among them."""
    active_only: bool = True
    """Process only Gaussians with a gradient; the others keep parameters, state and counters."""
    knn_refresh_interval: int = 1
    """Steps between neighbour searches; above 1 only if all Gaussians are processed (active_only off)."""
    log_scale_range: tuple[float, float] = (-8.0, 1.0986)
    """Log-scales are clamped to this range before and after every step; training units."""
    opacity_logit_limit: float = 7.0
    """Opacity logits are clamped to plus and minus this before every step."""
    sh_limit: float = 2.0
    """SH coefficients are clamped to plus and minus this after every step."""
    cap_sh_degree: int | None = None
    """SH bands above this degree are held at zero; None leaves all free."""
    latent_init: Literal["random", "zeros"] = "random"
    """Latent state of a scene without features: independent standard normal numbers, or zeros."""
    use_features: bool = True
    """Start the latent state from the initializer's features where there are any."""
    seed: int = 0
    """Seed of the random latent state."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto is bfloat16 autocast on CUDA, as in training, and float32 elsewhere."""
    units: Literal["training", "own_scale"] = "training"
    """Unit of length. training: that of the scene frame the weights were trained in. own_scale (not the paper's):
    position steps are in units of each Gaussian's own mean scale, and log-scales count from the median of the scene's
    start, so that no frame is needed."""
    step_decay: tuple[float, float] | None = None
    """Not the paper's: with (a, p) the steps of a Gaussian shrink as (1 + t / a) ** -p over its own step count t."""
    look_growth: float | None = None
    """Not the paper's, for gain networks: what the network says at step t serves 1 + t / look_growth steps, rounded
    down, so that its cost fades as the scene settles. None looks in every step."""
    trust_decay: float | None = None
    """Not the paper's, for gain networks: the share of the network in a step falls as 1 / (1 + t / trust_decay), and
    the rest is Adam. None trusts it throughout."""

    def __post_init__(self) -> None:
        # JSON has no tuples, and the same options must read the same in a fingerprint.
        object.__setattr__(self, "log_scale_range", tuple(self.log_scale_range))
        if self.step_decay is not None:
            object.__setattr__(self, "step_decay", tuple(self.step_decay))
        if self.knn_refresh_interval < 1:
            raise ValueError(f"knn_refresh_interval is {self.knn_refresh_interval}; at least 1 step is needed.")
        if self.active_only and self.knn_refresh_interval > 1:
            raise ValueError(
                f"knn_refresh_interval is {self.knn_refresh_interval} with active_only on; neighbours can be kept only "
                "while the same Gaussians are processed: turn active_only off, or refresh in every step."
            )
        if self.latent_init not in ("random", "zeros"):
            raise ValueError(f"latent_init is {self.latent_init!r}; 'random' or 'zeros' is needed.")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; 'auto', 'float32' or 'bfloat16' is needed.")
        if self.active_only and self.look_growth is not None:
            raise ValueError(
                f"look_growth is {self.look_growth} with active_only on; a look can serve several steps only while the "
                "same Gaussians are processed: turn active_only off, or look in every step."
            )
        for name in ("look_growth", "trust_decay"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; a number above 0, or None, is needed.")
        if self.units not in ("training", "own_scale"):
            raise ValueError(f"units is {self.units!r}; 'training' or 'own_scale' is needed.")

    def fast(self) -> Learn2SplatConfig:
        """The flags of the published benchmarks: all Gaussians in every step, neighbours kept for 100 steps."""
        return replace(self, active_only=False, knn_refresh_interval=100)


def paper_columns(sh_bands: int) -> Int[Tensor, " d"]:
    """Column of :meth:`Gaussians.pack` that each number of the paper's packing comes from.

    The paper keeps quaternions as x, y, z, w and all red SH coefficients before green and blue;
    ``Gaussians`` keeps w, x, y, z and the three colours of a band together.
    """
    spherical_harmonics = torch.arange(SH_START, SH_START + 3 * sh_bands).view(sh_bands, 3).T.flatten()
    return torch.cat([torch.tensor([0, 1, 2, 3, 4, 5, 7, 8, 9, 6, 10]), spherical_harmonics])


@dataclass(frozen=True)
class Proposal:
    """What the network makes of one step, for the active Gaussians and in the network's packing."""

    active: Int[Tensor, " m"] | None
    """Rows of the active Gaussians; None if all are."""
    parameters: Float[Tensor, "m d"]
    """Parameters as the network sees them, clamped."""
    gradients: Float[Tensor, "m d"]
    direction: Float[Tensor, "m d"]
    """Adam direction of the gradients."""
    step: Float[Tensor, "m d"]
    """Numbers to add to ``parameters``; those of positions in the unit that ``Learn2SplatConfig.units`` says."""
    state: RuleState
    """State of all n Gaussians for the next step."""


class Learn2SplatRule(UpdateRule):
    """The update rule of Learn2Splat on Gaussians in the units its weights were trained in.

    Under ``torch.no_grad`` it works through a large scene in portions. With gradients on it keeps the
    graph that meta-training needs: from the delta and the latent state to the weights and the latent
    states of earlier steps; parameters and gradients enter detached.

    The network is the paper's, or a smaller one of our own (:class:`GainNetwork`) behind the same interface.

    State: ``latent [n 256]``, ``adam_m [n 59]`` and ``adam_v [n 59]`` (the network's packing),
    ``adam_t [n]`` (int64), ``neighbours [n 4]`` (int64) while a search is kept for several steps,
    ``scale_origin [n 1]`` with ``own_scale`` units, and ``advice [n 25]`` while a look serves several steps.
    """

    def __init__(self, network: UpdateNetwork | GainNetwork, config: Learn2SplatConfig = Learn2SplatConfig()) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.frame_convention: FrameConvention = "raw"
        columns = paper_columns(network.shape.sh_bands) if isinstance(network, UpdateNetwork) else None
        self.register_buffer("_paper_columns", columns, persistent=False)
        self.register_buffer("_paper_rank", None if columns is None else columns.argsort(), persistent=False)

    @classmethod
    def from_weights(cls, weights: Weights, **options: Any) -> Learn2SplatRule:
        """The rule that weights describe.

        Args:
            weights: Of the learn2splat system.
            options: Fields of :class:`Learn2SplatConfig` that replace those of the weights.

        Raises:
            ValueError: If the weights are of another method or architecture, or an option is unknown.
        """
        tensors = weights.require("learn2splat").tensors
        network = load_network(tensors)
        known = {entry.name for entry in fields(Learn2SplatConfig)}
        if unknown := sorted(options.keys() - known):
            raise ValueError(f"learn2splat has no options {unknown}; {sorted(known)} can be set.")
        if unknown := sorted(weights.card.behaviour.keys() - known):
            raise ValueError(
                f"The weights from {weights.card.source} have unknown options {unknown}; update l2o_splat."
            )
        rule = cls(network, Learn2SplatConfig(**weights.card.behaviour | options))
        rule.trained_raster, rule.frame_convention = weights.card.raster, weights.card.scene_frame
        return rule

    def in_scene(self, scene: SceneKnowledge) -> UpdateRule:
        if self.config.units == "own_scale":
            return self
        return FramedRule(self, Frame.from_cameras(self.frame_convention, scene.centres, scene.rescaled_by))

    def to_weights(self, card: WeightsCard) -> Weights:
        """These weights for saving; architecture and behaviour of the card are filled in from the rule."""
        card = replace(card, architecture=asdict(self.network.shape), behaviour=asdict(self.config))
        return Weights({name: tensor.detach() for name, tensor in self.network.state_dict().items()}, card)

    @property
    def fingerprint(self) -> str:
        return f"learn2splat weights {digest_of(self.network)} {self.config}"

    def init_state(self, gaussians: Gaussians, features: Float[Tensor, "n f"] | None = None) -> RuleState:
        """See :meth:`UpdateRule.init_state`.

        Raises:
            ValueError: If the features do not fit the Gaussians or the weights.
        """
        n, device = len(gaussians), gaussians.device
        latent_width = self.network.shape.latent_width
        width = SH_START + 3 * gaussians.sh.shape[1] if self._paper_columns is None else len(self._paper_columns)
        if features is not None and self.config.use_features:
            if features.shape != (n, self.network.shape.feature_width):
                raise ValueError(
                    f"The features have shape {tuple(features.shape)}; {n} Gaussians and these weights need "
                    f"({n}, {self.network.shape.feature_width}): turn use_features off to start without."
                )
            latent = self.network.latent_from_features(features).detach()
        elif self.config.latent_init == "random":
            # Drawn on the CPU, so that a seed means the same on every device.
            generator = torch.Generator().manual_seed(self.config.seed)
            latent = torch.randn(n, latent_width, generator=generator).to(device)
        else:
            latent = torch.zeros(n, latent_width, device=device)
        state = {
            "latent": latent.to(self._latent_dtype(device)),
            "adam_m": torch.zeros(n, width, device=device),
            "adam_v": torch.zeros(n, width, device=device),
            "adam_t": torch.zeros(n, dtype=torch.int64, device=device),
        }
        if self.config.units == "own_scale" and n:
            state["scale_origin"] = gaussians.scales.detach().median().repeat(n, 1)
        return state

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        """See :meth:`UpdateRule.forward`.

        Raises:
            ValueError: If there are fewer Gaussians than neighbours wanted.
        """
        proposal = self.propose(gaussians, feedback, state)
        return self.delta(gaussians, proposal), proposal.state

    def propose(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> Proposal:
        """The network's step, before clamps."""
        n, k = len(gaussians), self.config.neighbours
        if n < k:
            raise ValueError(f"There are {n} Gaussians; these weights attend to {k} neighbours and need at least {k}.")
        parameters, gradients = self._read(gaussians, state), self._rows(feedback.gradients)
        active = self._active(gradients, feedback.step)
        new_state = dict(state)
        if active is not None:
            parameters, gradients = parameters[active], gradients[active]
            state = {name: rows[active] for name, rows in state.items()}
            if not len(active):
                return Proposal(active, parameters, gradients, gradients, gradients, new_state)

        direction, moments = _adam_direction(gradients, state)
        neighbours = state.get("neighbours")
        if neighbours is None or feedback.step % self.config.knn_refresh_interval == 0:
            neighbours = nearest_neighbours(parameters[:, :3], k)
        step, remembered = self._consult(parameters, direction, neighbours, state, feedback.step)
        if self.config.step_decay is not None:
            after, power = self.config.step_decay
            step *= (1 + state["adam_t"] / after).pow(-power)[:, None]
        if self.config.knn_refresh_interval > 1:
            new_state["neighbours"] = neighbours
        for name, rows in {**remembered, **moments}.items():
            new_state[name] = rows if active is None else new_state[name].to(rows.dtype).index_copy(0, active, rows)
        return Proposal(active, parameters, gradients, direction, step, new_state)

    def _consult(
        self,
        parameters: Float[Tensor, "m d"],
        direction: Float[Tensor, "m d"],
        neighbours: Int[Tensor, "m k"],
        state: RuleState,
        step: int,
    ) -> tuple[Float[Tensor, "m d"], RuleState]:
        """The network's step before decay, and what it remembers for the next."""
        if isinstance(self.network, GainNetwork) and "advice" in state and not self._looks_at(step):
            remembered = {}
            advice = state["advice"]
        else:
            with self._autocast(parameters.device):
                latent = state["latent"].to(self._latent_dtype(parameters.device))
                found, latent = self.network(parameters, latent, direction, neighbours)
            if not isinstance(self.network, GainNetwork):
                return found, {"latent": latent}
            advice, remembered = found, {"latent": latent}
            if self.config.look_growth is not None:
                remembered["advice"] = advice
        trust = 1.0 if self.config.trust_decay is None else 1 / (1 + step / self.config.trust_decay)
        return self.network.step(advice, direction, trust), remembered

    def _looks_at(self, step: int) -> bool:
        """Whether the network looks at the scene in a step."""
        if self.config.look_growth is None:
            return True
        look = 0
        while look < step:
            look += 1 + int(look / self.config.look_growth)
        return look == step

    def delta(self, gaussians: Gaussians, proposal: Proposal) -> Gaussians:
        """What to add to the Gaussians so that the active ones become ``clamp(parameters + step)``."""
        moved = proposal.parameters + proposal.step
        log_scales = moved[:, 3:6].clamp(*self.config.log_scale_range)
        harmonics = moved[:, SH_START:].clamp(-self.config.sh_limit, self.config.sh_limit)
        means = moved[:, :3]
        if self.config.units == "own_scale":
            origin = _rows_of(proposal.state["scale_origin"], proposal.active)
            own_scale = (proposal.parameters[:, 3:6] + origin).exp().mean(dim=1, keepdim=True)
            means, log_scales = proposal.parameters[:, :3] + own_scale * proposal.step[:, :3], log_scales + origin
        moved = torch.cat([means, log_scales, moved[:, 6:SH_START], harmonics], dim=1)
        if self._paper_rank is not None:
            moved = moved[:, self._paper_rank]
        packed = gaussians.detach().pack()
        width = min(packed.shape[1], moved.shape[1])
        rows = _rows_of(packed, proposal.active)
        target = torch.cat([moved[:, :width], rows[:, width:]], dim=1)
        if proposal.active is not None:
            target = packed.index_copy(0, proposal.active, target)
        if self.config.cap_sh_degree is not None:
            free = SH_START + 3 * (self.config.cap_sh_degree + 1) ** 2
            target = F.pad(target[:, :free], (0, max(packed.shape[1] - free, 0)))
        return Gaussians.unpack(target - packed)

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """Added Gaussians take latent state and counter from their parents and start with zero moments."""
        resized = super().resize_state(state, source, fresh)
        resized["latent"] = state["latent"][source]
        resized["adam_t"] = state["adam_t"][source]
        if "advice" in state:
            resized["advice"] = state["advice"][source]
        resized.pop("neighbours", None)
        return resized

    def _active(self, gradients: Float[Tensor, "n d"], step: int) -> Int[Tensor, " m"] | None:
        """Rows to process; None for all, and none where too few have a gradient to attend to each other."""
        if not self.config.active_only:
            return None
        active = gradients.any(dim=1).nonzero()[:, 0]
        if len(active) < self.config.neighbours:
            logger.warning("Step %d moves nothing: only %d Gaussians have a gradient.", step, len(active))
            return active[:0]
        return None if len(active) == len(gradients) else active

    def _rows(self, gaussians: Gaussians) -> Float[Tensor, "n d"]:
        """Detached rows in the network's packing; SH bands that the paper's has and the scene lacks are zero."""
        packed = gaussians.detach().pack()
        if self._paper_columns is None:
            return packed
        width = len(self._paper_columns)
        return F.pad(packed[:, :width], (0, max(width - packed.shape[1], 0)))[:, self._paper_columns]

    def _read(self, gaussians: Gaussians, state: RuleState) -> Float[Tensor, "n d"]:
        """Parameters as the network sees them."""
        rows, scales = self._rows(gaussians), slice(3, 6)
        if self.config.units == "own_scale":
            rows[:, scales] -= state["scale_origin"]
        else:
            # The paper stores linear scales and reads them with this floor; it shows in scales near the lower clamp.
            rows[:, scales].exp_().add_(1e-8).log_()
        rows[:, scales].clamp_(*self.config.log_scale_range)
        rows[:, 10].clamp_(-self.config.opacity_logit_limit, self.config.opacity_logit_limit)
        if self.config.cap_sh_degree is not None:
            free = (self.config.cap_sh_degree + 1) ** 2
            if self._paper_columns is None:
                rows[:, SH_START + 3 * free :] = 0
            else:
                rows[:, SH_START:].unflatten(1, (3, -1))[:, :, free:] = 0
        return rows

    def _latent_dtype(self, device: torch.device) -> torch.dtype:
        wanted = {"auto": torch.bfloat16 if device.type == "cuda" else torch.float32}
        return wanted.get(self.config.precision) or getattr(torch, self.config.precision)

    def _autocast(self, device: torch.device) -> AbstractContextManager:
        bfloat16 = self._latent_dtype(device) == torch.bfloat16
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def load_network(tensors: Mapping[str, Tensor]) -> UpdateNetwork | GainNetwork:
    """The network that named tensors are of.

    Raises:
        ValueError: If they fit none.
    """
    gains = "rates" in tensors
    with torch.device("meta"):
        network = GainNetwork(GainNetworkShape.of(tensors)) if gains else UpdateNetwork(UpdateNetworkShape.of(tensors))
    network.load_state_dict(tensors, assign=True)
    return network


def _rows_of(rows: Tensor, active: Int[Tensor, " m"] | None) -> Tensor:
    return rows if active is None else rows[active]


def _adam_direction(gradients: Float[Tensor, "m d"], state: RuleState) -> tuple[Float[Tensor, "m d"], RuleState]:
    """Bias-corrected Adam direction (arXiv 1412.6980) with one step counter per Gaussian, and the new moments."""
    t = state["adam_t"] + 1
    m = state["adam_m"] * BETA1 + gradients * (1 - BETA1)
    v = state["adam_v"] * BETA2 + gradients.square() * (1 - BETA2)
    correction1, correction2 = (1 - beta ** t[:, None].float() for beta in (BETA1, BETA2))
    direction = (m / correction1) / ((v / correction2).sqrt() + EPS)
    return direction, {"adam_m": m, "adam_v": v, "adam_t": t}
