"""Widths of the gain network: options of a training, which load no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GainNetworkShape:
    """All widths of the network."""

    latent_width: int = 32
    attention_width: int = 16
    hidden_width: int = 64
    num_blocks: int = 2

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> GainNetworkShape:
        """Read the widths from named tensors.

        Raises:
            ValueError: If they are not those of a gain network; it names the first difference.
        """
        from l2o_splat.nets.gain_network import GainNetwork
        from l2o_splat.nets.shapes import require_shapes

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
                "gain network."
            ) from None
        require_shapes(tensors, lambda: GainNetwork(shape), f"a gain network of the widths {asdict(shape)}")
        return shape
