"""The network of Learn2Splat (arXiv 2605.15760): parameters, latent state and Adam direction in, a step out.

Module names are those of the released weights (MIT code), which therefore load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.point_transformer import InputProjection, PointTransformer, by_rows
from l2o_splat.nets.shapes import require_shapes

SH_START = 11
"""Column of a packed Gaussian at which its spherical harmonics start."""

ADAM_RATES, ADAM_RATE_DC = (1e-3, 1e-2, 2e-3, 3e-2, 1e-3), 1e-2
"""Rates of :meth:`Learn2SplatNetwork.reset_to_adam`: means, scales, quats, opacities and SH; then SH of degree 0."""


@dataclass(frozen=True)
class Learn2SplatNetworkShape:
    """All widths of the network; the defaults are those of the released weights."""

    parameter_width: int = 59
    """Numbers per Gaussian: 11 and three per SH band."""
    latent_width: int = 256
    attention_width: int = 64
    hidden_width: int = 1024
    """Hidden width of each block's MLP."""
    num_blocks: int = 4
    scale_hidden_width: int = 187
    """Hidden width of the state scale's MLP; 0 leaves it out, which scales nothing."""
    head_hidden_width: int = 256
    feature_width: int | None = 256
    """Width of the initializer's features that the latent state can start from; None if there is no such projection."""

    @classmethod
    def of_width(
        cls, width: int, sh_degree: int = 3, num_blocks: int = 4, feature_width: int | None = None
    ) -> Learn2SplatNetworkShape:
        """The released proportions at another width; 256 gives the released widths."""
        parameter_width = SH_START + 3 * (sh_degree + 1) ** 2
        return cls(
            parameter_width=parameter_width,
            latent_width=width,
            attention_width=width // 4,
            hidden_width=4 * width,
            num_blocks=num_blocks,
            scale_hidden_width=(2 * parameter_width + width) // 2,
            head_hidden_width=width,
            feature_width=feature_width,
        )

    @property
    def input_width(self) -> int:
        return 2 * self.parameter_width + self.latent_width

    @property
    def sh_bands(self) -> int:
        return (self.parameter_width - SH_START) // 3

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Learn2SplatNetworkShape:
        """Read the widths from named tensors.

        Raises:
            ValueError: If they are not those of an update network; it names the first difference.
        """
        try:
            shape = cls(
                parameter_width=len(tensors["delta_head.2.bias"]) - 1,
                latent_width=len(tensors["point_transformer.0.linear.bias"]),
                attention_width=tensors["point_transformer.1.blocks.0.attn.proj.weight"].shape[1],
                hidden_width=len(tensors["point_transformer.1.blocks.0.mlp.fc1.bias"]),
                num_blocks=len(
                    {name.split(".")[3] for name in tensors if name.startswith("point_transformer.1.blocks.")}
                ),
                scale_hidden_width=len(tensors.get("state_scale_head.0.bias", ())),
                head_hidden_width=len(tensors["delta_head.0.bias"]),
                feature_width=tensors["state_proj.weight"].shape[1] if "state_proj.weight" in tensors else None,
            )
        except KeyError as error:
            raise ValueError(
                f"There is no tensor {error.args[0]!r} among the {len(tensors)} given; these are not weights of a "
                "learn2splat update network in its released layout."
            ) from None
        except (IndexError, TypeError):
            raise ValueError("The tensors do not have the ranks of an update network's weights and biases.") from None
        require_shapes(tensors, lambda: Learn2SplatNetwork(shape), f"an update network of the widths {asdict(shape)}")
        if shape.parameter_width < SH_START + 3 or (shape.parameter_width - SH_START) % 3:
            raise ValueError(
                f"The update head moves {shape.parameter_width} numbers per Gaussian; "
                "11 and three per SH band are needed."
            )
        return shape


class Learn2SplatNetwork(nn.Module):
    """A point transformer makes the new latent state; the update head reads the step from it, scaled per Gaussian."""

    def __init__(self, shape: Learn2SplatNetworkShape) -> None:
        super().__init__()
        self.shape = shape
        latent = shape.latent_width
        self.state_proj = nn.Conv2d(shape.feature_width, latent, 1) if shape.feature_width else None
        self.point_transformer = nn.ModuleList(
            [
                InputProjection(shape.input_width, latent),
                PointTransformer(latent, shape.attention_width, shape.hidden_width, shape.num_blocks),
            ]
        )
        self.state_scale_head = (
            nn.Sequential(
                nn.Linear(shape.input_width, shape.scale_hidden_width),
                nn.ReLU(),
                nn.Linear(shape.scale_hidden_width, 1),
                nn.ReLU(),
            )
            if shape.scale_hidden_width
            else None
        )
        self.delta_head = nn.Sequential(
            nn.Linear(latent, shape.head_hidden_width),
            nn.GELU(),
            nn.Linear(shape.head_hidden_width, shape.parameter_width + 1),
        )
        self.register_buffer("head_units", None)
        """Factors of what the update head answers ``[parameter_width + 1]``; None, as in all saved weights, is 1."""

    @torch.no_grad()
    def reset_for_training(self, seed: int) -> Learn2SplatNetwork:
        """Set the weights that meta-training starts from: torch's defaults, a state scale near 1, steps of length 0."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
                    module.reset_parameters()
        if self.state_scale_head is not None:
            self.state_scale_head[2].bias.fill_(1)
        self.delta_head[2].weight.zero_()
        self.delta_head[2].bias.zero_()
        self.delta_head[2].bias[-1] = 1e-8
        return self

    @torch.no_grad()
    def reset_to_adam(self, seed: int) -> Learn2SplatNetwork:
        """Draw random weights, some of which are then set by hand so that the step follows the Adam direction.

        The direction passes through channels of its own: GELU(a) - GELU(-a) = a carries it through the update
        head, and GELU(a) + GELU(-a), close to ``|a|``, makes the length follow its size. Steps are about
        ``-ADAM_RATES * direction``; the random rest changes them by a few per cent. This serves trials without
        trained weights, and as a start of meta-training that already descends.

        The update head answers in units of these rates (``head_units``): a meta-optimizer like Adam moves all weights
        by about as much, and would otherwise drown the fields with small rates.

        Raises:
            ValueError: If the network is too narrow.
        """
        d, hidden = self.shape.parameter_width, self.shape.head_hidden_width
        if self.shape.latent_width < d or hidden < 2 * d:
            raise ValueError(
                f"The latent width is {self.shape.latent_width} and the head's {hidden}; "
                f"to pass on {d} numbers at least {d} and {2 * d} are needed."
            )
        self.reset_for_training(seed)
        project, transformer = self.point_transformer
        project.linear.weight[:d] = 0
        project.linear.weight[:d, -d:] = torch.eye(d)
        outputs = [layer for block in transformer.blocks for layer in (block.attn.proj, block.mlp.fc2)]
        for layer in [*outputs, project.linear]:
            layer.bias[:d] = 0
        for layer in outputs:
            layer.weight[:d] = 0
        if self.state_scale_head is not None:
            self.state_scale_head[2].weight.zero_()
        widths = (3, 3, 4, 1, d - SH_START)
        rates = torch.cat([torch.full((width,), rate) for width, rate in zip(widths, ADAM_RATES, strict=True)])
        rates[SH_START :: self.shape.sh_bands] = ADAM_RATE_DC
        first, last = self.delta_head[0], self.delta_head[2]
        steepness = 20.0
        first.weight[: 2 * d] = 0
        first.weight[:d, :d], first.weight[d : 2 * d, :d] = steepness * torch.eye(d), -steepness * torch.eye(d)
        first.bias[: 2 * d] = 0
        generator = torch.Generator().manual_seed(seed)
        last.weight[:d, 2 * d :] = 0.01 * torch.randn(d, hidden - 2 * d, generator=generator)
        last.weight[:d, :d], last.weight[:d, d : 2 * d] = torch.eye(d) / steepness, -torch.eye(d) / steepness
        last.weight[d, : 2 * d] = (rates / (rates.sum() * steepness)).repeat(2)
        self.head_units = torch.cat([rates, rates.norm()[None]])
        return self

    def plain_tensors(self) -> dict[str, Tensor]:
        """Tensors of the same network whose update head answers in plain numbers, which is how weights are saved."""
        tensors = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        units = tensors.pop("head_units", None)
        if units is not None:
            for name, factors in (("delta_head.2.weight", units[:, None]), ("delta_head.2.bias", units)):
                tensors[name] = tensors[name] * factors
        return tensors

    def latent_from_features(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n latent"]:
        """The latent state at the start of a scene, from an initializer's features."""
        projection = self.state_proj
        return F.linear(features.to(projection.weight.dtype), projection.weight[:, :, 0, 0], projection.bias)

    def forward(
        self,
        parameters: Float[Tensor, "n d"],
        latent: Float[Tensor, "n latent"],
        direction: Float[Tensor, "n d"],
        neighbours: Int[Tensor, "n k"],
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n latent"]]:
        """One step.

        Args:
            parameters: Packed parameters: scalar-last quaternions, channel-major SH.
            latent: Latent state after the previous step.
            direction: Adam direction, packed alike.
            neighbours: Rows that each row attends to, including itself.

        Returns:
            The step to add, and the new latent state. Gradients reach the weights and ``latent``, but not
            through the input of the state scale, which is detached.
        """
        inputs = torch.cat([parameters, latent, direction], dim=1)
        if self.state_scale_head is None:
            scale = inputs.new_ones(len(inputs), 1)
        else:
            scale = by_rows(self.state_scale_head, inputs.detach())
        project, transformer = self.point_transformer
        latent = by_rows(project, inputs)
        del inputs
        latent = transformer(latent, neighbours)
        heads = by_rows(lambda state, factor: self.delta_head(factor * state), latent, scale).float()
        if self.head_units is not None:
            heads = heads * self.head_units
        heading, length = heads[:, :-1], heads[:, -1:]
        return -heading / (heading.norm(dim=1, keepdim=True) + 1e-8) * length.relu(), latent
