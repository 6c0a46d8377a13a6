"""The network that sizes the Gaussians of a dense start."""

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.dense import DenseHead, dense_gaussians, find_surfaces
from l2o_splat.initializers.dense.head import OPACITY, SCALE, WIDEST_GAP, gaps
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.views import PinholeCameras, Views
from l2o_splat.weights import Weights, WeightsCard, load_weights

CONTEXT, HELD_OUT = [0, 2, 4, 6, 8, 10], [3, 7]


@pytest.fixture(scope="module")
def capture():
    options = ProceduralOptions(num_views=11, width=192, height=128, num_points=1500, trajectory="orbit")
    return generate(5, options)


@pytest.fixture(scope="module")
def surfaces(capture):
    return find_surfaces([capture.views[CONTEXT]], capture.points.xyz, capture.points.rgb)


@pytest.fixture
def head():
    """One that changes everything a little."""
    torch.manual_seed(0)
    head = DenseHead().requires_grad_(False)
    torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    return head


def test_untrained_it_changes_nothing(surfaces):
    with torch.no_grad():
        sized = DenseHead()(surfaces.gaussians, surfaces.evidence, surfaces.views)
    for name, values in sized.items():
        assert torch.allclose(values, getattr(surfaces.gaussians, name), atol=1e-6)


def test_it_changes_sizes_opacities_and_orientations_within_bounds_and_nothing_else(surfaces, head):
    before, after = surfaces.gaussians, head(surfaces.gaussians, surfaces.evidence, surfaces.views)
    for name in ("means", "features_dc", "features_rest"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert 0.1 < (after.scales - before.scales).abs().max() <= SCALE
    assert 0.1 < (after.opacities - before.opacities).abs().max() <= OPACITY
    cosines = (after.quats * before.quats).sum(dim=1).abs()
    assert torch.allclose(after.quats.norm(dim=1), torch.ones(len(cosines))) and cosines.min() < 0.999


def test_the_unit_of_length_does_not_matter(capture, head):
    factor = 40.0
    cameras = capture.views.cameras
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] *= factor
    larger = Views(PinholeCameras(viewmats, cameras.Ks, cameras.width, cameras.height), capture.views.images)
    points = capture.points.xyz, capture.points.rgb
    one = dense_gaussians([capture.views[CONTEXT]], *points, head=head)
    other = dense_gaussians([larger[CONTEXT]], factor * points[0], points[1], head=head)
    assert len(one) == len(other)
    assert torch.allclose(other.scales, one.scales + torch.tensor(factor).log(), atol=5e-3)
    assert torch.allclose(other.opacities, one.opacities, atol=5e-3)


def test_distances_to_neighbours_are_those_of_a_grid():
    side = torch.arange(5.0)
    means = torch.cartesian_prod(side, side, side)
    width = 0.5
    rows = {"scales": torch.full((125, 3), width).log(), "means": means}
    shape = {"quats": (4,), "opacities": (1,), "features_dc": (3,), "features_rest": (0, 3)}
    gaussians = Gaussians(**rows, **{name: torch.ones(125, *size) for name, size in shape.items()})
    middle = 62
    # Six neighbours at a distance of 1, and two of the twelve at the root of 2.
    expected = torch.tensor([1 / width, (6 + 2 * 2**0.5) / 8 / width]).log()
    assert torch.allclose(gaps(gaussians)[middle], expected)
    assert (gaps(gaussians[:1]) == WIDEST_GAP).all()
    assert gaps(gaussians[:2]).isfinite().all()


def test_the_shipped_head_makes_a_better_first_image_of_views_that_it_has_not_seen(capture, surfaces):
    held_out = capture.views[HELD_OUT]
    before = mean_psnr(surfaces.gaussians, held_out, RasterSettings())
    sized = dense_gaussians([capture.views[CONTEXT]], capture.points.xyz, capture.points.rgb)
    assert mean_psnr(sized, held_out, RasterSettings()) > before + 0.5


def test_weights_give_the_same_head_and_others_are_refused(head, surfaces):
    card = WeightsCard("dense", {})
    again = DenseHead.from_weights(Weights(head.state_dict(), card))
    inputs = surfaces.gaussians, surfaces.evidence, surfaces.views
    assert torch.equal(again(*inputs).pack(), head(*inputs).pack())
    narrow = {name: tensor[:8] for name, tensor in head.state_dict().items()}
    with pytest.raises(ValueError, match="A dense head"):
        DenseHead.from_weights(Weights(narrow, card))
    with pytest.raises(ValueError, match="dense weights are needed"):
        DenseHead.from_weights(load_weights("gain-mini"))
