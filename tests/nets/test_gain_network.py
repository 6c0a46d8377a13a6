"""The gain network on lanes of the CPU against its layers in torch, which record a graph."""

import pytest
import torch

from l2o_splat import threads
from l2o_splat.nets.gain_network import BASE_WIDTH, GainNetwork, GainNetworkShape
from l2o_splat.nets.knn import nearest_neighbours

SHAPES = [
    GainNetworkShape(),
    GainNetworkShape(latent_width=8, attention_width=4, hidden_width=12, num_blocks=2),
    GainNetworkShape(latent_width=10, attention_width=21, hidden_width=13, num_blocks=3),
]


def trained(shape: GainNetworkShape) -> GainNetwork:
    network = GainNetwork(shape).reset_to_adam(0, (0.1,) * 6)
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def scene(shape: GainNetworkShape, n: int, k: int, size: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    parameters, direction = (size * torch.randn(n, 59, generator=generator) for _ in range(2))
    latent = torch.randn(n, shape.latent_width, generator=generator)
    return parameters, latent, direction, nearest_neighbours(parameters[:, :3], k)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 4), (64, 6), (2500, 6)])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_a_query_on_lanes_is_that_of_the_layers(shape, n, k, size):
    network, inputs = trained(shape), scene(shape, n, k, size)
    with torch.no_grad():
        found = network(*inputs)
    expected = network(*inputs)
    assert expected[0].requires_grad and not found[0].requires_grad
    for ours, theirs in zip(found, expected, strict=True):
        theirs = theirs.detach()
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@torch.no_grad()
def test_a_query_does_not_depend_on_the_number_of_threads():
    network, inputs = trained(SHAPES[0]), scene(SHAPES[0], 3333, 6)
    found = []
    try:
        for count in (1, 3):
            threads.set_num_threads(count)
            found.append(network(*inputs))
    finally:
        threads.set_num_threads(None)
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))


@torch.no_grad()
def test_only_the_first_columns_of_parameters_and_direction_are_read():
    network, (parameters, latent, direction, neighbours) = trained(SHAPES[0]), scene(SHAPES[0], 100, 6)
    whole = network(parameters, latent, direction, neighbours)
    narrow = network(parameters[:, :BASE_WIDTH], latent, direction[:, :BASE_WIDTH], neighbours)
    assert all(torch.equal(one, other) for one, other in zip(whole, narrow, strict=True))


@torch.no_grad()
def test_gaussians_without_a_finite_latent_state_are_not_hidden():
    """They spoil the whole answer through the mean of the gains, as they do in torch."""
    network, (parameters, latent, direction, neighbours) = trained(SHAPES[0]), scene(SHAPES[0], 100, 6)
    latent[3, 5] = torch.nan
    proposal, after = network(parameters, latent, direction, neighbours)
    assert after[3].isnan().all() and proposal[:, :6].isnan().all()


@torch.no_grad()
def test_under_autocast_the_layers_compute_in_its_type():
    network, (parameters, latent, direction, neighbours) = trained(SHAPES[0]), scene(SHAPES[0], 100, 6)
    expected, _ = network(parameters, latent, direction, neighbours)
    with torch.autocast("cpu", torch.bfloat16):
        proposal, _ = network(parameters, latent.bfloat16(), direction, neighbours)
    assert not torch.allclose(proposal, expected, rtol=1e-5, atol=1e-5)
    assert (proposal - expected).norm() < 0.1 * expected.norm()
