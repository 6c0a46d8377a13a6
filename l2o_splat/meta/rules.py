"""Rules that meta-training can train, as options. They load no torch, so that `--help` does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from l2o_splat.nets.gain_shape import GainNetworkShape
from l2o_splat.training.errors import TrainingError

if TYPE_CHECKING:
    from l2o_splat.optim.gain import GainRule
    from l2o_splat.optim.learn2splat import Learn2SplatRule


@dataclass(frozen=True)
class GainRuleOptions:
    """Our gain rule: tuned Adam, and a small network that adds to it."""

    shape: GainNetworkShape = field(default_factory=GainNetworkShape)
    neighbours: int = 6
    """Gaussians each one attends to, itself among them."""
    step_decay: tuple[float, float] = (60.0, 0.8)
    """Steps shrink as (1 + t / first) ** -second over the inner steps t."""
    query_growth: float = 20.0
    """What the network answers at step t serves 1 + t / query_growth steps, rounded down."""
    trust_decay: float = 20.0
    """The network's share in a step falls as 1 / (1 + t / trust_decay); the rest is Adam."""
    seed: int = 0
    """Seed of the network's start."""

    def build(self, feature_width: int | None = None) -> GainRule:
        """The untrained rule, which is Adam with the rates of ``l2o-adam-tuned``; it takes no features."""
        from l2o_splat.nets.gain_network import GainNetwork
        from l2o_splat.optim.adam import adam_options
        from l2o_splat.optim.gain import GainConfig, GainRule

        rates = adam_options("own-scale", 1).rates
        network = GainNetwork(self.shape).reset_to_adam(
            self.seed,
            (rates.means, rates.scales, rates.quats, rates.opacities, rates.features_dc, rates.features_rest),
        )
        config = GainConfig(
            neighbours=self.neighbours,
            step_decay=self.step_decay,
            query_growth=self.query_growth,
            trust_decay=self.trust_decay,
        )
        return GainRule(network, config)


@dataclass(frozen=True)
class PaperRuleOptions:
    """The rule of Learn2Splat (arXiv 2605.15760), in the proportions of its released weights."""

    width: int = 256
    """Width of the latent state; the other widths follow in the released proportions. A multiple of 4."""
    head_width: int | None = None
    """Hidden width of the update head; None takes ``width``."""
    blocks: int = 4
    """Blocks of the point transformer."""
    neighbours: int = 4
    """Gaussians each one attends to, itself among them; 1 attends to no other."""
    sh_degree: int = 3
    """Degree of the spherical harmonics that it moves."""
    state_scale: bool = True
    """Scale the latent state of each Gaussian by what the State Scale MLP says."""
    start: Literal["paper", "adam"] = "paper"
    """Untrained weights: the paper's, which move nothing, or some that follow Adam, whose training is much shorter."""
    scene_frame: Literal["raw", "cameras"] = "raw"
    """Units that it is trained in: those of the data, or the cameras of each scene in the unit ball."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto is bfloat16 autocast on CUDA and float32 elsewhere."""
    seed: int = 0
    """Seed of the network's start."""

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 4 or self.blocks < 1 or self.neighbours < 1:
            raise TrainingError(
                f"--rule.width is {self.width}, --rule.blocks {self.blocks} and --rule.neighbours {self.neighbours}; "
                "a multiple of 4, and at least 1 block and 1 neighbour are needed."
            )

    def build(self, feature_width: int | None = None) -> Learn2SplatRule:
        """The untrained rule.

        Args:
            feature_width: Width of the features that scenes start with; None if they have none.

        Raises:
            TrainingError: If it is too narrow to follow Adam and ``start`` wants it to.
        """
        from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
        from l2o_splat.optim.learn2splat import Learn2SplatConfig, Learn2SplatRule

        shape = Learn2SplatNetworkShape.of_width(self.width, self.sh_degree, self.blocks, feature_width)
        if self.head_width is not None:
            shape = replace(shape, head_hidden_width=self.head_width)
        if not self.state_scale:
            shape = replace(shape, scale_hidden_width=0)
        network = Learn2SplatNetwork(shape)
        try:
            reset = network.reset_to_adam if self.start == "adam" else network.reset_for_training
            reset(self.seed)
        except ValueError as error:
            raise TrainingError(f"--rule.start is adam: {error}") from error
        config = Learn2SplatConfig(neighbours=self.neighbours, precision=self.precision)
        rule = Learn2SplatRule(network, config)
        rule.frame_convention = self.scene_frame
        return rule


TrainedRule = GainRuleOptions | PaperRuleOptions
"""Options of a rule that meta-training can train; a preset chooses which."""
