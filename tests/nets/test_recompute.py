"""Recomputed blocks: the same gradients, from less memory."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from l2o_splat.nets.point_transformer import PointTransformer
from l2o_splat.nets.recompute import recomputing
from l2o_splat.nets.resplat.encoder import MultiViewTransformer
from l2o_splat.nets.resplat.points import PointNetwork


def points() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    torch.manual_seed(0)
    x, neighbours = torch.randn(300, 16), torch.randint(300, (300, 6))
    return PointTransformer(16, 8, 64, num_blocks=4), lambda network: network(x, neighbours)


def cells() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    torch.manual_seed(0)
    x, neighbours = torch.randn(2 * 8 * 8, 32), torch.randint(128, (128, 6))
    return PointNetwork(32, 8, num_blocks=3), lambda network: network(x, neighbours, (8, 8))


def views() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    torch.manual_seed(0)
    features, references = torch.randn(3, 16, 8, 8), torch.tensor([[1, 2], [0, 2], [0, 1]])
    return MultiViewTransformer(16, num_layers=3), lambda network: network(features, references)


def gradients(network: nn.Module, compute: Callable[[nn.Module], Tensor], recompute: bool) -> tuple[list[Tensor], int]:
    """Gradients of a loss, and bytes that the graph keeps beside the weights."""
    kept, own = {}, {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with recomputing() if recompute else contextlib.nullcontext():
            result = compute(network)
        bytes_kept = sum(kept.values())
    # The backward pass may come after the context has ended.
    result.square().sum().backward()
    return [parameter.grad.clone() for parameter in network.parameters()], bytes_kept


@pytest.mark.parametrize("make", [points, cells, views])
def test_gradients_are_the_same_bit_for_bit_and_far_less_is_kept(make):
    network, compute = make()
    plain, bytes_plain = gradients(network, compute, recompute=False)
    again, bytes_again = gradients(network, compute, recompute=True)
    assert all(torch.equal(*pair) for pair in zip(plain, again, strict=True))
    blocks = next(iter(network.children()))
    inputs = len(blocks) * compute(network).nbytes  # The graph keeps them out of sight of the hooks.
    assert bytes_again + inputs < bytes_plain / 3
    assert all(gradient.abs().max() > 0 for gradient in again)


def test_gradients_reach_inputs_that_need_them():
    network, _ = points()
    neighbours = torch.randint(300, (300, 6))
    found = []
    for recompute in (False, True):
        x = torch.randn(300, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with recomputing(recompute):
            (gradient,) = torch.autograd.grad(network(x, neighbours).square().sum(), x)
        found.append(gradient)
    assert torch.equal(*found)


def test_it_ends_with_its_context_and_nothing_changes_without_a_graph():
    network, compute = points()
    with pytest.raises(ZeroDivisionError), recomputing():
        _ = 1 / 0
    plain = gradients(network, compute, recompute=False)[1]
    assert gradients(network, compute, recompute=False)[1] == plain
    with torch.no_grad(), recomputing():
        assert torch.equal(compute(network), compute(network)) and not compute(network).requires_grad
