"""The perceptual term against closed forms and finite differences, with networks whose features are known."""

import pytest
import torch
import torch.nn.functional as F

from l2o_splat.losses.perceptual import FEATURE_WEIGHTS, perceptual_distances
from l2o_splat.nets.perceptual_network import BACKBONES, PerceptualNetwork


def random_network(backbone: str, seed: int = 0) -> PerceptualNetwork:
    torch.manual_seed(seed)
    network = PerceptualNetwork(backbone)
    for convolution in network.convolutions:
        torch.nn.init.kaiming_normal_(convolution.weight)
    return network.requires_grad_(False)


def images(views: int = 2, height: int = 16, width: int = 18, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, views, height, width, 3, generator=torch.Generator().manual_seed(seed)).unbind()


def test_the_weights_are_those_of_the_papers():
    """Each tap that differs by one grey level adds its weight, in units of the sRGB range."""
    assert list(FEATURE_WEIGHTS) == pytest.approx([0.384615, 0.208333, 0.270270, 0.178571, 6.666667], rel=1e-5)
    bright, dark = torch.full((2, 16, 16, 3), 0.6), torch.full((2, 16, 16, 3), 0.4)
    for tap, weight in enumerate(FEATURE_WEIGHTS):

        def features(batch, tap=tap):
            level = float(batch.mean() > 0.5)
            return [torch.full((len(batch), 2, 3, 3), level if index == tap else 5.0) for index in range(5)]

        expected = torch.full((2,), 0.2 + weight / 255)
        torch.testing.assert_close(perceptual_distances(features, bright, dark), expected)


@pytest.mark.parametrize(("backbone", "convolutions"), [("vgg19", 14), ("vgg16", 12)])
def test_taps_come_after_the_second_convolution_of_each_block(backbone, convolutions):
    assert len(BACKBONES[backbone].layers) == convolutions
    taps = random_network(backbone)(images(height=32, width=48)[0])
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (64, 32, 48),
        (128, 16, 24),
        (256, 8, 12),
        (512, 4, 6),
        (512, 2, 3),
    ]


def test_the_network_of_the_papers_takes_grey_levels_and_averages_where_vgg_takes_maxima():
    network, (image, _) = random_network("vgg19"), images()
    values = (255 * image - torch.tensor([123.68, 116.779, 103.939])).movedim(-1, 1)
    expected, number = [], 0
    for block, count in enumerate((2, 2, 4, 4, 2)):
        values = F.avg_pool2d(values, 2, 2) if block else values
        for place in range(count):
            convolution = network.convolutions[number]
            values = F.relu(F.conv2d(values, convolution.weight, convolution.bias, padding=1))
            number += 1
            if place == 1:
                expected.append(values)
    for found, tap in zip(network(image), expected, strict=True):
        torch.testing.assert_close(found, tap)


def test_the_substitute_takes_normalised_images_and_its_features_are_in_grey_levels():
    """Where both networks hold the same filters without biases and see the same contrast, their features agree."""
    paper, substitute = random_network("vgg19"), random_network("vgg16")
    for convolution in (paper.convolutions[0], substitute.convolutions[0]):
        torch.nn.init.zeros_(convolution.weight)
        convolution.weight[:3, :3, 1, 1] = torch.eye(3)
        torch.nn.init.zeros_(convolution.bias)
    for network in (paper, substitute):
        network.convolutions[1].load_state_dict(
            network.convolutions[0].state_dict()
            | {
                "weight": torch.eye(64)[:, :, None, None] * (torch.arange(9).reshape(3, 3) == 4),
            }
        )
    image = torch.tensor([0.9, 0.85, 0.8]).expand(1, 16, 16, 3)
    mine, theirs = (network(image)[0][0, :3, 8, 8] for network in (substitute, paper))
    torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0)


def test_its_gradient_is_that_of_finite_differences():
    network, (rendered, photographs) = random_network("vgg16").double(), images(views=1)
    rendered, photographs = rendered.double().requires_grad_(), photographs.double()
    (gradient,) = torch.autograd.grad(perceptual_distances(network, rendered, photographs).sum(), rendered)
    direction = torch.randn(rendered.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        ends = [perceptual_distances(network, rendered + s * 1e-7 * direction, photographs).sum() for s in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-7, rel=1e-4)


def test_masked_pixels_change_neither_value_nor_gradient():
    network, (rendered, photographs) = random_network("vgg16"), images()
    masks = torch.ones(2, 16, 18, 1)
    masks[0, 4:9, 5:11] = 0

    def measured(fill_rendered, fill_photographs):
        one = torch.where(masks > 0.5, rendered, fill_rendered).requires_grad_()
        other = torch.where(masks > 0.5, photographs, fill_photographs)
        distances = perceptual_distances(network, one, other, masks)
        return distances.detach(), torch.autograd.grad(distances.sum(), one)[0]

    distances, gradient = measured(0.3, 0.6)
    for fill in ((0.9, 0.1), (float("nan"), float("inf"))):
        other_distances, other_gradient = measured(*fill)
        assert torch.equal(distances, other_distances) and torch.equal(gradient, other_gradient)
    assert (gradient[0, 4:9, 5:11] == 0).all() and (gradient[1] != 0).any()
    unmasked = perceptual_distances(network, rendered, photographs)
    assert distances[0] != unmasked[0]
    torch.testing.assert_close(distances[1], unmasked[1])


def test_equal_images_have_no_distance_and_photographs_are_constants():
    network, (rendered, photographs) = random_network("vgg16"), images()
    assert (perceptual_distances(network, rendered, rendered) == 0).all()
    leaf = photographs.requires_grad_()
    assert not perceptual_distances(network, rendered, leaf).requires_grad


def test_images_that_vgg_leaves_nothing_of_are_refused():
    rendered, photographs = images(height=15)
    with pytest.raises(ValueError, match="18 x 15 pixels; the perceptual loss needs at least 16"):
        perceptual_distances(random_network("vgg16"), rendered, photographs)
