"""Rules whose network proposes a step that is then limited: what meta-training needs of a learned rule."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import Self

from l2o_splat.frame import FrameConvention
from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule
from l2o_splat.weights.format import System, Weights, WeightsCard

PrecisionName = Literal["auto", "float32", "bfloat16"]
"""Arithmetic of a network; auto is bfloat16 autocast on CUDA and float32 elsewhere."""


@dataclass(frozen=True)
class Proposal:
    """What a network makes of one step, for the Gaussians that it processes and in its own packing."""

    active: Int[Tensor, " m"] | None
    """Rows of these Gaussians; None if it processes all."""
    parameters: Float[Tensor, "m d"]
    """Parameters as the network sees them, clamped."""
    gradients: Float[Tensor, "m d"]
    direction: Float[Tensor, "m d"]
    """Adam direction of the gradients."""
    step: Float[Tensor, "m d"]
    """Numbers to add to ``parameters``; those of the means in the rule's unit of length."""
    state: RuleState
    """State of all n Gaussians for the next step."""


class ProposingRule(UpdateRule):
    """A rule with a network, which meta-training trains through :meth:`propose` and :meth:`delta`.

    Under ``torch.no_grad`` it works through a large scene in portions. With gradients on it keeps the graph that
    meta-training needs: from the delta and the latent state to the weights and the latent states of earlier steps;
    parameters and gradients enter detached.
    """

    system: ClassVar[System]
    """System of its weights."""
    network_type: ClassVar[type[nn.Module]]
    shape_type: ClassVar[type]
    """Widths of the network; ``of(tensors)`` reads them off."""
    config_type: ClassVar[type]
    """Behaviour that the tensors do not tell."""
    frame_convention: FrameConvention = "raw"
    """Frame of scenes that the network was trained in."""

    def __init__(self, network: nn.Module, config: Any) -> None:
        super().__init__()
        self.network = network
        self.config = config

    @classmethod
    def from_weights(cls, weights: Weights, **options: Any) -> Self:
        """The rule that weights describe.

        Args:
            weights: Weights of the rule's system.
            options: Fields of its config that replace those of the weights.

        Raises:
            ValueError: If the weights are of another method or architecture, or an option is unknown.
        """
        tensors = weights.require(cls.system).tensors
        with torch.device("meta"):
            network = cls.network_type(cls.shape_type.of(tensors))
        network.load_state_dict(tensors, assign=True)
        rule = cls(network, cls.config_type(**weights.behaviour(cls.config_type, options)))
        rule.card, rule.trained_raster = weights.card, weights.card.raster
        return rule

    def to_weights(self, card: WeightsCard) -> Weights:
        """The network's weights for saving; system, architecture and behaviour of the card are filled in."""
        architecture, behaviour = asdict(self.network.shape), asdict(self.config)
        card = replace(card, system=self.system, architecture=architecture, behaviour=behaviour)
        return Weights({name: tensor.detach() for name, tensor in self.network.state_dict().items()}, card)

    def with_network(self, network: nn.Module) -> Self:
        """The same rule around other weights of the same network."""
        rule = type(self)(network, self.config)
        rule.card, rule.trained_raster = self.card, self.trained_raster
        return rule

    @abstractmethod
    def propose(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> Proposal:
        """The network's step, before it is limited."""

    @abstractmethod
    def delta(self, gaussians: Gaussians, proposal: Proposal) -> Gaussians:
        """What to add to the Gaussians so that they take the proposed step within the rule's limits."""

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        proposal = self.propose(gaussians, feedback, state)
        return self.delta(gaussians, proposal), proposal.state

    def before_unroll(self, state: RuleState) -> RuleState:
        """The state without anything that a network computed without a graph and that recorded steps would reuse."""
        return state


def check_precision_name(precision: str) -> None:
    """Refuse arithmetic that networks cannot use.

    Raises:
        ValueError: If it is unknown.
    """
    if precision not in get_args(PrecisionName):
        raise ValueError(f"precision is {precision!r}; 'auto', 'float32' or 'bfloat16' is needed.")


def network_dtype(precision: PrecisionName, device: torch.device) -> torch.dtype:
    """Floating point type that a precision means on a device."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, precision)


def autocast(precision: PrecisionName, device: torch.device) -> AbstractContextManager:
    """The context in which networks compute with a precision on a device."""
    enabled = network_dtype(precision, device) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def check_neighbours(n: int, k: int) -> None:
    """Refuse scenes with fewer Gaussians than each one attends to.

    Raises:
        ValueError: If n is below k.
    """
    if n < k:
        raise ValueError(f"There are {n} Gaussians; these weights attend to {k} neighbours and need at least {k}.")
