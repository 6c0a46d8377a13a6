"""Learn2Splat (arXiv 2605.15760): a point transformer proposes the step of every Gaussian."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.nets.learn2splat_network import SH_START, Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.optim.adam_moments import adam_direction, zero_moments
from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.proposal import (
    PrecisionName,
    Proposal,
    ProposingRule,
    autocast,
    check_neighbours,
    check_precision_name,
    network_dtype,
)
from l2o_splat.optim.rule import Feedback, Moments, Needs, RuleState, UpdateRule, digest_of
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.weights.format import Weights, WeightsCard

logger = logging.getLogger(__name__)

SCALES, OPACITY = slice(3, 6), 10
"""Columns of log-scales and opacity logits in the paper's packing."""


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
    """Start the latent state from the initializer's features if there are any."""
    seed: int = 0
    """Seed of the random latent state."""
    precision: PrecisionName = "auto"
    """Arithmetic of the network; auto is bfloat16 autocast on CUDA, as in training, and float32 elsewhere."""

    def __post_init__(self) -> None:
        # JSON has no tuples, and the same options must read the same in a fingerprint.
        object.__setattr__(self, "log_scale_range", tuple(self.log_scale_range))
        if self.knn_refresh_interval < 1:
            raise ValueError(f"knn_refresh_interval is {self.knn_refresh_interval}; at least 1 step is needed.")
        if self.active_only and self.knn_refresh_interval > 1:
            raise ValueError(
                f"knn_refresh_interval is {self.knn_refresh_interval} with active_only on; neighbours can be kept only "
                "while the same Gaussians are processed: turn active_only off, or refresh in every step."
            )
        if self.latent_init not in ("random", "zeros"):
            raise ValueError(f"latent_init is {self.latent_init!r}; 'random' or 'zeros' is needed.")
        check_precision_name(self.precision)


def paper_columns(sh_bands: int) -> Int[Tensor, " d"]:
    """Column of :meth:`Gaussians.pack` that each number of the paper's packing comes from.

    The paper keeps quaternions as x, y, z, w and all red SH coefficients before green and blue;
    ``Gaussians`` keeps w, x, y, z and the three colours of a band together.
    """
    spherical_harmonics = torch.arange(SH_START, SH_START + 3 * sh_bands).view(sh_bands, 3).T.flatten()
    return torch.cat([torch.tensor([0, 1, 2, 3, 4, 5, 7, 8, 9, 6, 10]), spherical_harmonics])


class Learn2SplatRule(ProposingRule):
    """The update rule of Learn2Splat on Gaussians in the units its weights were trained in.

    State: ``latent [n 256]``, ``adam_m [n 59]`` and ``adam_v [n 59]`` (the paper's packing), ``adam_t [n]`` (int64),
    and ``neighbours [n 4]`` (int64) while a search is kept for several steps.
    """

    system = "learn2splat"
    network_type = Learn2SplatNetwork
    shape_type = Learn2SplatNetworkShape
    config_type = Learn2SplatConfig

    def __init__(self, network: Learn2SplatNetwork, config: Learn2SplatConfig = Learn2SplatConfig()) -> None:
        super().__init__(network, config)
        columns = paper_columns(network.shape.sh_bands)
        self.register_buffer("_paper_columns", columns, persistent=False)
        self.register_buffer("_paper_rank", columns.argsort(), persistent=False)

    @classmethod
    def from_weights(cls, weights: Weights, **options: Any) -> Learn2SplatRule:
        rule = super().from_weights(weights, **options)
        rule.frame_convention = weights.card.scene_frame
        return rule

    def to_weights(self, card: WeightsCard) -> Weights:
        return replace(super().to_weights(card), tensors=self.network.plain_tensors())

    def with_network(self, network: Learn2SplatNetwork) -> Learn2SplatRule:
        rule = super().with_network(network)
        rule.frame_convention = self.frame_convention
        return rule

    @property
    def needs(self) -> Needs:
        width = self.network.shape.feature_width
        return Needs(features=(width,) if width and self.config.use_features else ())

    def bind(self, scene: SceneKnowledge) -> UpdateRule:
        return FramedRule(self, Frame.from_cameras(self.frame_convention, scene.centres, scene.rescaled_by))

    @property
    def fingerprint(self) -> str:
        return f"learn2splat weights {digest_of(self.network)} {self.config}"

    def init_state(self, start: SceneStart) -> RuleState:
        """See :meth:`UpdateRule.init_state`.

        Raises:
            ValueError: If the features do not fit the Gaussians or the weights.
        """
        gaussians, features = start.gaussians, start.features
        n, device = len(gaussians), gaussians.device
        latent_width = self.network.shape.latent_width
        if features is not None and self.config.use_features:
            if features.shape != (n, self.network.shape.feature_width):
                raise ValueError(
                    f"The features have shape {tuple(features.shape)}; {n} Gaussians and these weights need "
                    f"({n}, {self.network.shape.feature_width}): turn use_features off to start without."
                )
            # The graph to the projection is kept where gradients are on: meta-training trains it.
            latent = self.network.latent_from_features(features.detach())
        elif self.config.latent_init == "random":
            # Drawn on the CPU, so that a seed means the same on every device.
            generator = torch.Generator().manual_seed(self.config.seed)
            latent = torch.randn(n, latent_width, generator=generator).to(device)
        else:
            latent = torch.zeros(n, latent_width, device=device)
        latent = latent.to(network_dtype(self.config.precision, device))
        return RuleState({"latent": latent} | zero_moments(n, len(self._paper_columns), device))

    def propose(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> Proposal:
        """The network's step, before clamps.

        Raises:
            ValueError: If there are fewer Gaussians than neighbours wanted.
        """
        n, k = len(gaussians), self.config.neighbours
        check_neighbours(n, k)
        parameters, gradients = self._read(gaussians), self._rows(feedback.gradients)
        active = self._active(gradients, feedback.step)
        rows = state
        if active is not None:
            parameters, gradients, rows = parameters[active], gradients[active], state.at(active)
            if not len(active):
                return Proposal(active, parameters, gradients, gradients, gradients, state)
        direction, changed = adam_direction(gradients, rows)
        neighbours = rows.get("neighbours")
        if neighbours is None or feedback.step % self.config.knn_refresh_interval == 0:
            neighbours = nearest_neighbours(parameters[:, :3], k)
        device = parameters.device
        with autocast(self.config.precision, device):
            latent = rows["latent"].to(network_dtype(self.config.precision, device))
            step, changed["latent"] = self.network(parameters, latent, direction, neighbours)
        if active is not None:
            changed = {
                name: state[name].to(values.dtype).index_copy(0, active, values) for name, values in changed.items()
            }
        if self.config.knn_refresh_interval > 1:
            changed["neighbours"] = neighbours
        return Proposal(active, parameters, gradients, direction, step, state.updated(**changed))

    def delta(self, gaussians: Gaussians, proposal: Proposal) -> Gaussians:
        """What to add to the Gaussians so that the active ones become ``clamp(parameters + step)``."""
        moved = proposal.parameters + proposal.step
        log_scales = moved[:, SCALES].clamp(*self.config.log_scale_range)
        harmonics = moved[:, SH_START:].clamp(-self.config.sh_limit, self.config.sh_limit)
        moved = torch.cat([moved[:, : SCALES.start], log_scales, moved[:, SCALES.stop : SH_START], harmonics], dim=1)
        moved = moved[:, self._paper_rank]
        packed = gaussians.detach().pack()
        width = min(packed.shape[1], moved.shape[1])
        rows = packed if proposal.active is None else packed[proposal.active]
        target = torch.cat([moved[:, :width], rows[:, width:]], dim=1)
        if proposal.active is not None:
            target = packed.index_copy(0, proposal.active, target)
        if self.config.cap_sh_degree is not None:
            free = SH_START + 3 * (self.config.cap_sh_degree + 1) ** 2
            target = F.pad(target[:, :free], (0, max(packed.shape[1] - free, 0)))
        return Gaussians.unpack(target - packed)

    def moments(self, state: RuleState, field: str) -> list[Moments]:
        packed = Gaussians.columns(field)
        stop = torch.inf if packed.stop is None else packed.stop
        columns = ((self._paper_columns >= packed.start) & (self._paper_columns < stop)).nonzero()[:, 0]
        return [Moments(name, columns, power) for name, power in (("adam_m", 1), ("adam_v", 2))]

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """Added Gaussians take latent state and counter from their parents and start with zero moments."""
        resized = super().resize_state(state.without("neighbours"), source, fresh)
        return resized.updated(latent=state["latent"][source], adam_t=state["adam_t"][source])

    def _active(self, gradients: Float[Tensor, "n d"], step: int) -> Int[Tensor, " m"] | None:
        """Rows to process; None for all, and none if too few have a gradient to attend to each other."""
        if not self.config.active_only:
            return None
        active = gradients.any(dim=1).nonzero()[:, 0]
        if len(active) < self.config.neighbours:
            logger.warning("Step %d moves nothing: only %d Gaussians have a gradient.", step, len(active))
            return active[:0]
        return None if len(active) == len(gradients) else active

    def _rows(self, gaussians: Gaussians) -> Float[Tensor, "n d"]:
        """Detached rows in the paper's packing; SH bands that the weights have and the scene lacks are zero."""
        packed, width = gaussians.detach().pack(), len(self._paper_columns)
        return F.pad(packed[:, :width], (0, max(width - packed.shape[1], 0)))[:, self._paper_columns]

    def _read(self, gaussians: Gaussians) -> Float[Tensor, "n d"]:
        """Parameters as the network sees them."""
        rows = self._rows(gaussians)
        # The paper stores linear scales and reads them with this floor; it shows in scales near the lower clamp.
        rows[:, SCALES].exp_().add_(1e-8).log_()
        rows[:, SCALES].clamp_(*self.config.log_scale_range)
        rows[:, OPACITY].clamp_(-self.config.opacity_logit_limit, self.config.opacity_logit_limit)
        if self.config.cap_sh_degree is not None:
            free = (self.config.cap_sh_degree + 1) ** 2
            rows[:, SH_START:].unflatten(1, (3, -1))[:, :, free:] = 0
        return rows
