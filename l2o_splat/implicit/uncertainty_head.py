"""The network that predicts how strongly each pixel-aligned Gaussian is held.

That a network predicts one positive value per Gaussian and attribute, without supervision of its own, is DIFF3R's
(arXiv 2604.01030). Layers, activation and range are ours, the paper's being unknown, and so is what it sees beside the
features (:mod:`l2o_splat.implicit.consistency`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.implicit.consistency import CHANNELS as CONSISTENCY
from l2o_splat.optim.precision import GROUPS, MEAN
from l2o_splat.weights.format import Weights

RANGE = 7.0
"""Bound of the absolute logarithm of a precision in units of the reference."""
FLOOR = 1e-3
"""Least precision in units of the reference. Below it, Gauss-Newton gradients are wrong and linear solves slow."""
PREFIX = "uncertainty_head."
"""Prefix of the head's tensor names in weights of diff3r, which hold those of the initial model too."""


class UncertaintyHead(nn.Module):
    """Maps features and consistency to one precision per pixel and group, in logarithmic units around a reference.

    Untrained, it predicts the reference everywhere. The features are normalised over their channels (without weights),
    so that a rate that suits one initial model suits another.

    Args:
        channels: C of the feature map.
        reference: Typical precision of each group, that of the means per squared pixel; see
            :func:`l2o_splat.implicit.heuristic.reference_precision`. Saved with the weights.

    Raises:
        ValueError: If the reference is not five finite positive numbers.
    """

    def __init__(self, channels: int, reference: Float[Tensor, " 5"]) -> None:
        super().__init__()
        if tuple(reference.shape) != (len(GROUPS),) or not (reference.isfinite() & (reference > 0)).all():
            raise ValueError(
                f"The reference precision is {reference.tolist()}; one finite positive number is needed for each of "
                f"{', '.join(GROUPS)}."
            )
        self.hidden = nn.Conv2d(channels + CONSISTENCY, channels, 3, padding=1)
        self.output = nn.Conv2d(channels, len(GROUPS), 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("reference", reference.detach().clone())

    @classmethod
    def from_weights(cls, weights: Weights) -> UncertaintyHead:
        """The head that weights hold.

        Args:
            weights: Of the diff3r system.

        Raises:
            ValueError: If the weights are of another method, or a tensor is missing or has another shape.
        """
        given = weights.require("diff3r").tensors
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in given.items() if name.startswith(PREFIX)}
        output, reference = tensors.get("output.weight"), tensors.get("reference")
        if output is None or reference is None or output.ndim != 4:
            raise ValueError(
                f"The weights from {weights.card.source} hold no uncertainty head (tensors {PREFIX}*); use those of a "
                "whole diff3r model."
            )
        head = cls(output.shape[1], reference.float())
        for name, tensor in head.state_dict().items():
            found = tuple(tensors[name].shape) if name in tensors else "none (it is missing)"
            if found != tuple(tensor.shape):
                raise ValueError(
                    f"Tensor {PREFIX + name!r} from {weights.card.source} has shape {found}; a head for {head.channels}"
                    f" channels has {tuple(tensor.shape)}."
                )
        head.load_state_dict({name: tensors[name] for name in head.state_dict()})
        return head

    def to_weights(self, initial: Weights) -> Weights:
        """Weights of diff3r: this head, and the model whose features it sees.

        Args:
            initial: Of the resplat system; its card is taken over, and wants a source and training record of its own.
        """
        own = {PREFIX + name: tensor for name, tensor in self.state_dict().items()}
        card = replace(initial.require("resplat").card, system="diff3r", sha256=None)
        return Weights(initial.tensors | own, card)

    @property
    def channels(self) -> int:
        """C of the feature map."""
        return self.hidden.out_channels

    def forward(
        self, features: Float[Tensor, "v c h w"], consistency: Float[Tensor, "v e h w"], footprints: Float[Tensor, " n"]
    ) -> Float[Tensor, "n 5"]:
        """One row per pixel, in the order view, row, column; n = v h w.

        Args:
            features: The map from which the Gaussians themselves are predicted.
            consistency: How they agree with the photographs; see :mod:`l2o_splat.implicit.consistency`.
            footprints: Scene units per pixel at each Gaussian: its depth by the focal length of its source pixel. No
                gradient flows to them.

        Raises:
            ValueError: If the numbers of pixels and footprints differ.
        """
        normalised = nn.functional.layer_norm(features.permute(0, 2, 3, 1), (self.channels,)).permute(0, 3, 1, 2)
        seen = torch.cat([normalised, consistency.to(normalised.dtype)], dim=1)
        # Bounded smoothly: where a cut-off has no gradient, what was once too low could not learn to hold again.
        logarithms = RANGE * (self.output(nn.functional.gelu(self.hidden(seen))) / RANGE).tanh()
        # In float32 also under autocast: half precision cannot hold the range.
        logarithms = logarithms.permute(0, 2, 3, 1).flatten(0, 2).to(self.reference.dtype)
        if tuple(footprints.shape) != (len(logarithms),):
            raise ValueError(
                f"The feature map has {len(logarithms)} pixels in all views and the footprints have shape "
                f"{tuple(footprints.shape)}; one footprint per pixel is needed."
            )
        units = torch.ones_like(logarithms)
        units[:, MEAN] = footprints.detach().to(units.dtype).square().reciprocal()
        return self.reference * (FLOOR + logarithms.exp()) * units
