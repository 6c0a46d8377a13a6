"""Groups and channels, the heuristic precision, the head, and the checks of a run."""

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.checks import check_background, check_fixed_gaussians
from l2o_splat.implicit.consistency import CHANNELS as CONSISTENCY
from l2o_splat.implicit.consistency import consistency_maps
from l2o_splat.implicit.heuristic import RAISED, heuristic_precision, pixel_footprints, reference_precision
from l2o_splat.implicit.layer import proximal_refine
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.solvers import AdamSolver
from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.optim.precision import MEAN, ROTATION, SCALE, check_precision, per_channel
from l2o_splat.rendering import render
from l2o_splat.views import PinholeCameras, Views
from tests.implicit.scenes import SETTINGS, blobs, cameras, dense_jacobian, toy


def test_every_channel_gets_the_precision_of_its_group():
    precision = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    scene = Gaussians.unpack(per_channel(precision, bands=3))
    assert scene.means.unique().tolist() == [1.0]
    assert scene.scales.unique().tolist() == [2.0]
    assert scene.quats.unique().tolist() == [3.0]
    assert scene.opacities.unique().tolist() == [4.0]
    assert scene.features_dc.unique().tolist() == [5.0]
    assert scene.features_rest.unique().tolist() == [100.0]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_what_cannot_hold_is_refused(value):
    gaussians, precision = blobs(3, 0), torch.ones(3, 5).double()
    check_precision(gaussians, precision)
    precision[1, 2] = value
    with pytest.raises(ValueError, match=r"not finite and positive \(1 of rotation\); add a floor"):
        check_precision(gaussians, precision)


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="precision is torch.float32.*convert it"):
        check_precision(blobs(3, 0), torch.ones(3, 5))


def scene_with_one_seen_once():
    """Two views; Gaussian 0 is in front of the first camera alone, Gaussian 1 behind both."""
    problem = toy(n=6, size=16)
    seen = cameras([0.0, 0.5], 16)
    means = problem.anchor.means.clone()
    means[0] = torch.tensor([0.0, 0.0, 0.6])
    means[1] = torch.tensor([0.0, 0.0, -9.0])
    scales = problem.anchor.scales.clone() - 1
    anchor = Gaussians(**{**dict(problem.anchor.items()), "means": means, "scales": scales})
    return anchor, ContextViews(Views(seen, render(anchor, seen, SETTINGS).rgb), SETTINGS, "reference")


def test_heuristic_raises_what_fewer_than_two_views_see():
    anchor, views = scene_with_one_seen_once()
    jacobian = dense_jacobian(views, anchor.pack()).view(2, -1, 6, 14)
    seen_by = jacobian.abs().amax(dim=(1, 3)).gt(0).sum(0)
    assert seen_by.tolist() == [1, 0, 2, 2, 2, 2]
    precision = heuristic_precision(anchor, views)
    check_precision(anchor, precision)
    assert precision[:, SCALE].div(precision[2, SCALE]).tolist() == pytest.approx([RAISED, RAISED, 1, 1, 1, 1])


def test_reference_is_a_tenth_of_the_typical_diagonal():
    problem = toy(n=5, size=12)
    diagonal = Gaussians.unpack(dense_jacobian(problem.context, problem.rows).square().sum(0).view(5, 14))
    footprints = pixel_footprints(problem.anchor.means, problem.context.cameras)
    reference = reference_precision(problem.anchor, problem.context, probes=400)
    expected = 0.1 * (diagonal.means.mean(1) * footprints.square()).median()
    assert reference[MEAN].item() == pytest.approx(expected.item(), rel=0.15)
    assert reference[SCALE].item() == pytest.approx(0.1 * diagonal.scales.mean(1).median().item(), rel=0.15)


def test_the_same_scene_in_other_units():
    """In millimetres rather than metres, the precision of the means alone changes, with the square of the unit."""
    problem, factor = toy(n=4), 1000.0
    anchor = problem.anchor
    larger = Gaussians(
        **{**dict(anchor.items()), "means": anchor.means * factor, "scales": anchor.scales + torch.tensor(factor).log()}
    )
    viewmats = problem.context.cameras.viewmats.clone()
    viewmats[:, :3, 3] *= factor
    seen = PinholeCameras(viewmats, problem.context.cameras.Ks, 10, 10)
    views = [ContextViews(Views(c, problem.context.images), SETTINGS) for c in (problem.context.cameras, seen)]
    one, other = heuristic_precision(anchor, views[0]), heuristic_precision(larger, views[1])
    torch.testing.assert_close(other[:, 1:], one[:, 1:], rtol=1e-4, atol=0)
    torch.testing.assert_close(other[:, MEAN] * factor**2, one[:, MEAN], rtol=1e-4, atol=0)


def test_round_gaussians_still_have_a_precision_of_rotation():
    """Points from structure from motion start round, with no rotation to see."""
    problem = toy(n=4)
    scales = problem.anchor.scales.mean(dim=1, keepdim=True).expand(-1, 3).contiguous()
    anchor = Gaussians(**{**dict(problem.anchor.items()), "scales": scales})
    precision = heuristic_precision(anchor, problem.context)
    check_precision(anchor, precision)
    assert precision[0, ROTATION] == pytest.approx(1e-2 * precision[0, SCALE].item())
    assert proximal_refine(anchor, precision, problem.context, AdamSolver(steps=5))[1].failure is None


def test_a_scene_out_of_sight_is_refused():
    problem = toy(n=3)
    hidden = Gaussians(**{**dict(problem.anchor.items()), "means": problem.anchor.means - 100})
    views = ContextViews(Views(problem.context.cameras, problem.context.images), SETTINGS)
    with pytest.raises(ValueError, match="None of the 3 Gaussians is visible"):
        heuristic_precision(hidden, views)


def test_footprints():
    seen = cameras([0.0, 0.0], 10)
    seen.Ks[1, 0, 0] = seen.Ks[1, 1, 1] = 24.0
    footprints = pixel_footprints(torch.tensor([[0.0, 0.0, 6.0], [0.0, 0.0, -1.0]]).double(), seen)
    assert footprints.tolist() == [6.0 / 24.0, float("inf")]


REFERENCE = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


def test_an_untrained_head_predicts_the_reference():
    head = UncertaintyHead(8, REFERENCE)
    footprints = torch.linspace(0.1, 1, 2 * 3 * 4)
    precision = head(torch.randn(2, 8, 3, 4), torch.randn(2, CONSISTENCY, 3, 4), footprints)
    torch.testing.assert_close(precision[:, 1:], 1.001 * REFERENCE[1:].expand(24, 4))
    torch.testing.assert_close(precision[:, MEAN], 1.001 / footprints.square())


def test_a_trained_head_stays_in_range_and_in_the_order_of_the_pixels():
    head = UncertaintyHead(4, REFERENCE)
    torch.nn.init.normal_(head.output.weight, std=50.0)
    features, consistency = torch.randn(2, 4, 3, 5), torch.randn(2, CONSISTENCY, 3, 5)
    precision = head(features, consistency, torch.ones(30))
    ratio = precision / REFERENCE
    assert ratio.min() > 1e-3 and ratio.max() < 1.01 * torch.tensor(7.0).exp()
    assert ratio.max() / ratio.min() > 1e4
    single = head(features[1:], consistency[1:], torch.ones(15))
    torch.testing.assert_close(precision[15:], single, rtol=1e-4, atol=0)
    # A change in one pixel is felt around it alone.
    for seen in (features, consistency):
        seen[1, 0, 0, 4] += 1
        changed = ((head(features, consistency, torch.ones(30)) / precision).log().abs().amax(1) > 1e-3).view(2, 3, 5)
        assert changed[1, :2, 3:].any() and not changed[0].any() and not changed[1, :, :3].any()
        seen[1, 0, 0, 4] -= 1


def test_the_head_learns_through_the_layer():
    """The only supervision is the loss after the refinement; footprints get no gradient."""
    problem = toy(n=4)
    head = UncertaintyHead(3, torch.full((5,), 0.05)).double()
    footprints = torch.ones(4, dtype=torch.float64, requires_grad=True)
    features = torch.randn(2, 3, 1, 2, dtype=torch.float64)
    consistency = consistency_maps(problem.anchor, problem.context, (1, 2), head.reference)
    precision = head(features, consistency, footprints)
    refined, _ = proximal_refine(problem.anchor, precision, problem.context, AdamSolver(steps=5))
    problem.outer_loss(refined).backward()
    assert head.output.weight.grad.abs().sum() > 0
    assert footprints.grad is None


def test_the_head_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="one finite positive number is needed for each of mean"):
        UncertaintyHead(4, torch.zeros(5))
    with pytest.raises(ValueError, match="has 6 pixels.*one footprint per pixel"):
        UncertaintyHead(4, REFERENCE)(torch.randn(1, 4, 2, 3), torch.randn(1, CONSISTENCY, 2, 3), torch.ones(5))


def test_checks_of_a_run():
    check_fixed_gaussians(densifies=False)
    with pytest.raises(ValueError, match="Densification is switched on.*switch it off"):
        check_fixed_gaussians(densifies=True)
    for colour in ("black", "white", (0.0, 0.5, 1.0)):
        check_background(colour)
    with pytest.raises(ValueError, match="background is random"):
        check_background("random")
