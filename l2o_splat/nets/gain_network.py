"""A small network that turns Adam directions into steps: gains and corrections from a Gaussian's neighbourhood.

Ours, not the paper's. With its last layer at zero the step is Adam's own at the network's rates, so that
meta-training starts from a good optimizer and can only add to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.point_transformer import PointTransformer, by_rows
from l2o_splat.nets.shapes import require_shapes

FIELD_WIDTHS = (3, 3, 4, 1, 3)
"""Numbers of a Gaussian that the network reads and corrects, field by field: all but SH of degree 1 and above."""
BASE_WIDTH = sum(FIELD_WIDTHS)
_PARAMETERS_READ = 7
"""Log-scales, opacity logit and SH of degree 0."""
LOG_GAIN_LIMIT = 3.0
"""Logarithms of gains stay within plus and minus this."""


@dataclass(frozen=True)
class GainNetworkShape:
    """All widths of the network."""

    latent_width: int = 32
    attention_width: int = 16
    hidden_width: int = 64
    num_blocks: int = 2

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> GainNetworkShape:
        """Read the widths off named tensors.

        Raises:
            ValueError: If they are not those of a gain network, naming the first difference.
        """
        try:
            shape = cls(
                latent_width=len(tensors["project.bias"]),
                attention_width=tensors["transformer.blocks.0.attn.proj.weight"].shape[1],
                hidden_width=len(tensors["transformer.blocks.0.mlp.fc1.bias"]),
                num_blocks=len({name.split(".")[2] for name in tensors if name.startswith("transformer.blocks.")}),
            )
        except KeyError as error:
            raise ValueError(
                f"There is no tensor {error.args[0]!r} among the {len(tensors)} given; these are not weights of a "
                "learn2splat gain network."
            ) from None
        require_shapes(tensors, lambda: GainNetwork(shape), f"a gain network of the widths {asdict(shape)}")
        return shape


class GainNetwork(nn.Module):
    """Step of a Gaussian: ``-rate (exp(a) direction + exp(c) d)`` with ``a, c`` per field and ``d`` per number.

    A point transformer over parameters, latent state and Adam direction gives ``a``, ``c`` and ``d``, its advice
    (residual form of an update head; SH of degree 1 and above take a gain ``a`` only), which may serve several steps,
    each with the Adam direction of its own. Its output before the head is the new latent state. The mean
    of each field's ``a`` over all Gaussians is taken away: the network says who moves more, not how fast the scene
    does. Left to it, that would be learned too small, since over the few steps of an unroll slowing down looks best
    (short-horizon bias, Wu et al., arXiv 1803.02021).
    """

    def __init__(self, shape: GainNetworkShape) -> None:
        super().__init__()
        self.shape = shape
        latent, fields = shape.latent_width, len(FIELD_WIDTHS)
        self.project = nn.Linear(_PARAMETERS_READ + BASE_WIDTH + latent, latent)
        self.transformer = PointTransformer(latent, shape.attention_width, shape.hidden_width, shape.num_blocks)
        self.norm = nn.LayerNorm(latent)
        self.head = nn.Linear(latent, fields + 1 + fields + BASE_WIDTH)
        self.register_buffer("rates", torch.ones(fields + 1))

    @torch.no_grad()
    def reset_to_adam(self, seed: int, rates: tuple[float, ...]) -> GainNetwork:
        """Random weights behind a last layer of zeros: the step is Adam's with one rate per field."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.modules():
                if isinstance(module, (nn.Linear, nn.LayerNorm)):
                    module.reset_parameters()
        self.head.weight.zero_()
        self.head.bias.zero_()
        self.rates.copy_(torch.tensor(rates))
        return self

    def forward(
        self,
        parameters: Float[Tensor, "n d"],
        latent: Float[Tensor, "n latent"],
        direction: Float[Tensor, "n d"],
        neighbours: Int[Tensor, "n k"],
    ) -> tuple[Float[Tensor, "n advice"], Float[Tensor, "n latent"]]:
        """Look at the scene.

        Args:
            parameters: Packed parameters; log-scales relative to the scene's.
            latent: Latent state of the look before.
            direction: Adam direction, packed alike.
            neighbours: Rows each row attends to, itself among them.

        Returns:
            Advice for :meth:`step`, and the new latent state.
        """
        scales, opacity_and_dc = parameters[:, 3:6], parameters[:, 10:14]
        inputs = torch.cat([0.3 * scales, 0.3 * opacity_and_dc, direction[:, :BASE_WIDTH], latent], dim=1)
        latent = self.transformer(by_rows(self.project, inputs), neighbours)
        # Normalised, so that a state handed on for thousands of steps stays bounded.
        latent = by_rows(self.norm, latent)
        advice = by_rows(self.head, latent).float()
        log_gains, corrections = advice.split([len(FIELD_WIDTHS) + 1, advice.shape[1] - len(FIELD_WIDTHS) - 1], dim=1)
        return torch.cat([log_gains - log_gains.mean(dim=0), corrections], dim=1), latent

    def step(
        self, advice: Float[Tensor, "n advice"], direction: Float[Tensor, "n d"], trust: float
    ) -> Float[Tensor, "n d"]:
        """Numbers to add to the parameters, position steps in units of the Gaussian's own scale.

        Args:
            advice: From :meth:`forward`, of this step or an earlier one.
            direction: Adam direction of this step.
            trust: Share of the advice that is followed, 0 to 1; with 0 the step is Adam's.
        """
        return by_rows(partial(self._step, trust), advice, direction)

    def _step(
        self, trust: float, advice: Float[Tensor, "n advice"], direction: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n d"]:
        fields = len(FIELD_WIDTHS)
        log_gains, log_lengths, corrections = advice.split([fields + 1, fields, BASE_WIDTH], dim=1)
        gains = _limited_exp(trust * log_gains) * -self.rates
        lengths = _limited_exp(log_lengths) * (-trust * self.rates[:-1])
        base = _per_number(gains[:, :fields]) * direction[:, :BASE_WIDTH] + _per_number(lengths) * corrections
        return torch.cat([base, gains[:, fields:] * direction[:, BASE_WIDTH:]], dim=1)


def _limited_exp(logarithms: Tensor) -> Tensor:
    return (LOG_GAIN_LIMIT * (logarithms / LOG_GAIN_LIMIT).tanh()).exp()


def _per_number(per_field: Float[Tensor, "n fields"]) -> Float[Tensor, "n base"]:
    columns = zip(per_field.split(1, dim=1), FIELD_WIDTHS, strict=True)
    return torch.cat([column.expand(-1, width) for column, width in columns], dim=1)
