"""A small network that turns Adam directions into steps, with gains and corrections from each Gaussian's neighbours.

It is our own, not from a paper. While its last layer is zero, the step is Adam's at the network's rates, so that
meta-training starts from a good optimizer and can only add to it.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.compiler import numba_works
from l2o_splat.nets.gain_shape import GainNetworkShape
from l2o_splat.nets.point_transformer import PointTransformer, by_rows

FIELD_WIDTHS = (3, 3, 4, 1, 3)
"""Widths of the fields that the network corrects: means, scales, quats, opacities and SH of degree 0."""
BASE_WIDTH = sum(FIELD_WIDTHS)
SCALES, OPACITIES_AND_DC = slice(3, 6), slice(10, 14)
"""Columns of :meth:`Gaussians.pack` whose values the network reads; of the other fields it sees directions alone."""
_PARAMETERS_READ = 7
"""Number of these columns."""
LOG_GAIN_LIMIT = 3.0
"""Logarithms of gains stay within plus and minus this."""


class GainNetwork(nn.Module):
    """The step of a Gaussian is ``-rate (exp(a) direction + exp(c) d)``, with ``a, c`` per field and ``d`` per number.

    A query of the network returns a proposal: ``a``, ``c`` and ``d``, from a point transformer over parameters, latent
    state and Adam direction. SH of degree 1 and above have a gain ``a`` only. One proposal may serve several steps,
    each with its own Adam direction. What enters the head is the new latent state.

    The mean of each field's ``a`` over all Gaussians is subtracted, so the network decides which Gaussians move more,
    not how fast the whole scene moves. It would learn to move it too slowly, since slowing down pays off most over the
    few steps of an unroll (short-horizon bias, Wu et al., arXiv 1803.02021).
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
        """Draw random weights and set the last layer to zero: the step is then Adam's with one rate per field."""
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
    ) -> tuple[Float[Tensor, "n proposal"], Float[Tensor, "n latent"]]:
        """One query of the network.

        Args:
            parameters: Packed as by :meth:`Gaussians.pack`, log-scales relative to those of the scene; SH of degree 1
                and above may be left out, here and in the direction.
            latent: Latent state after the previous query.
            direction: Adam direction, packed alike.
            neighbours: Rows that each row attends to, including itself.

        Returns:
            A proposal for :meth:`step`, and the new latent state.
        """
        scales, opacity_and_dc = parameters[:, SCALES], parameters[:, OPACITIES_AND_DC]
        inputs = torch.cat([0.3 * scales, 0.3 * opacity_and_dc, direction[:, :BASE_WIDTH]], dim=1)
        num_gains = len(FIELD_WIDTHS) + 1
        if self._runs_in_kernels(inputs, latent):
            from l2o_splat.nets import gain_kernel

            return gain_kernel.query(self, inputs, latent.contiguous(), neighbours.contiguous(), num_gains)
        inputs = torch.cat([inputs, latent], dim=1)
        latent = self.transformer(by_rows(self.project, inputs), neighbours)
        # Normalised, so that a state handed on for thousands of steps stays bounded.
        latent = by_rows(self.norm, latent)
        proposal = by_rows(self.head, latent).float()
        log_gains, corrections = proposal[:, :num_gains], proposal[:, num_gains:]
        return torch.cat([log_gains - log_gains.mean(dim=0), corrections], dim=1), latent

    def _runs_in_kernels(self, *inputs: Tensor) -> bool:
        """Whether a query is one of the CPU, of float32 numbers and without a graph."""
        return (
            not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in inputs)
            and self.head.weight.dtype == torch.float32
            and numba_works()
        )

    def log_gains(self, proposal: Float[Tensor, "n proposal"]) -> Float[Tensor, " n"]:
        """Logarithm of the gain of each Gaussian, the mean over its fields."""
        return _limited(proposal[:, : len(FIELD_WIDTHS) + 1].float()).mean(dim=1)

    def step(
        self,
        proposal: Float[Tensor, "n proposal"],
        direction: Float[Tensor, "n d"],
        blend: Float[Tensor, " n"],
        rates: Float[Tensor, " 6"],
    ) -> Float[Tensor, "n d"]:
        """What to add to the parameters; steps of the means are in units of each Gaussian's own scale.

        Args:
            proposal: From :meth:`forward`, in this step or an earlier one.
            direction: Adam direction of this step.
            blend: How much of the proposal enters for each of them, from 0 (the step is Adam's) to 1.
            rates: One for each field; ``rates`` of this network, or those of a controller.
        """
        return by_rows(partial(self._step, rates), blend[:, None], proposal, direction)

    def _step(
        self,
        rates: Float[Tensor, " 6"],
        blend: Float[Tensor, "n 1"],
        proposal: Float[Tensor, "n proposal"],
        direction: Float[Tensor, "n d"],
    ) -> Float[Tensor, "n d"]:
        fields = len(FIELD_WIDTHS)
        log_gains, log_lengths, corrections = proposal.split([fields + 1, fields, BASE_WIDTH], dim=1)
        gains = _limited_exp(blend * log_gains) * -rates
        lengths = _limited_exp(log_lengths) * (-blend * rates[:-1])
        base = _per_number(gains[:, :fields]) * direction[:, :BASE_WIDTH] + _per_number(lengths) * corrections
        return torch.cat([base, gains[:, fields:] * direction[:, BASE_WIDTH:]], dim=1)


def _limited_exp(logarithms: Tensor) -> Tensor:
    return _limited(logarithms).exp()


def _limited(logarithms: Tensor) -> Tensor:
    return LOG_GAIN_LIMIT * (logarithms / LOG_GAIN_LIMIT).tanh()


def _per_number(per_field: Float[Tensor, "n fields"]) -> Float[Tensor, "n base"]:
    columns = zip(per_field.split(1, dim=1), FIELD_WIDTHS, strict=True)
    return torch.cat([column.expand(-1, width) for column, width in columns], dim=1)
