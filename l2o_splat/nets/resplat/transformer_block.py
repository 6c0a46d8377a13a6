"""Pre-norm transformer block over all tokens, used by the image transformer and by the global attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.nets.point_transformer import Mlp


class SelfAttention(nn.Module):
    """Scaled dot-product attention of every token over all."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """One learned factor per channel (arXiv 2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        return x * self.gamma


class TransformerBlock(nn.Module):
    """Attention and a four times wider MLP, each on normalised tokens and added to them.

    Args:
        width: Channels of a token.
        heads: Attention heads.
        qkv_bias: Whether the projection to queries, keys and values has a bias.
        layer_scale: Whether learned factors scale what is added.
        norm_eps: Of the layer normalisations.
    """

    def __init__(
        self, width: int, heads: int, qkv_bias: bool = False, layer_scale: bool = False, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = SelfAttention(width, heads, qkv_bias)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, 4 * width)
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))
