"""What the photographs say about a prediction: where it is seen, and what the views make of one another."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.consistency import CHANNELS, LEAST_ERROR, LEAST_INFORMATION, consistency_maps
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.rendering import render
from l2o_splat.views import Views
from tests.implicit.scenes import SETTINGS, blobs, cameras

REFERENCE = torch.ones(5, dtype=torch.float64)
VIEWS, OWN, SIGNED, ABSOLUTE, COVERED, VIEW_SIGNED, VIEW_ABSOLUTE, SCENE, COUNT = range(5, CHANNELS)


def joined(*parts: Gaussians) -> Gaussians:
    return Gaussians(*(torch.cat(tensors) for tensors in zip(*([t for _, t in p.items()] for p in parts), strict=True)))


@pytest.fixture
def views() -> Views:
    """Two photographs of four blobs."""
    seen = cameras([-0.2, 0.2], 12)
    return Views(seen, render(blobs(4, 0), seen, SETTINGS).rgb)


@pytest.fixture
def prediction() -> Gaussians:
    """Half of the blobs from either view, then as many that no view shows."""
    hidden = blobs(4, 1)
    hidden = replace(hidden, means=hidden.means - 100)
    return joined(blobs(4, 0)[:2], hidden[:2], blobs(4, 0)[2:], hidden[2:])


def consistency(gaussians: Gaussians, views: Views) -> torch.Tensor:
    grid = (len(gaussians) // 4, 2)
    return consistency_maps(gaussians, ContextViews(views, SETTINGS, "reference"), grid, REFERENCE)


def test_where_the_photographs_tell_nothing(prediction, views):
    found = consistency(prediction, views)
    assert found.shape == (2, CHANNELS, 2, 2) and found.isfinite().all()
    nothing = torch.tensor(LEAST_INFORMATION).log().item() / 4
    assert (found[:, :5, 0] > nothing + 0.5).all()
    torch.testing.assert_close(found[:, :5, 1], torch.full_like(found[:, :5, 1], nothing))
    # One of two views alone is one; both alike are two.
    assert (found[:, VIEWS, 0] > 0.3).all() and (found[:, VIEWS] <= torch.tensor(2.0).log() + 1e-6).all()
    assert not found[:, VIEWS, 1].any()
    far = cameras([-0.2, 0.2], 12)
    far.viewmats[1, :3, 3] += 1e3
    assert not consistency(prediction, replace(views, cameras=far))[:, VIEWS].any()


def test_a_prediction_that_agrees_shows_no_error(prediction, views):
    found = consistency(prediction, views)
    torch.testing.assert_close(found[:, OWN], torch.full_like(found[:, OWN], LEAST_ERROR).log() + 3)
    # Twice the same from either view: each view is what the other predicts of it.
    twice = joined(blobs(4, 0), blobs(4, 0))
    drawn = render(blobs(4, 0), views.cameras, SETTINGS)
    behind = (1 - drawn.alpha) * torch.tensor(SETTINGS.background)
    found = consistency(twice, replace(views, images=(drawn.rgb - behind) / drawn.alpha.clamp(min=1e-6)))
    torch.testing.assert_close(found[:, VIEW_SIGNED], torch.zeros(2, 2, 2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[:, COVERED].mean(dim=(1, 2)), 2 * drawn.alpha.mean(dim=(1, 2, 3)) - 1)


def test_another_exposure_is_told_by_the_other_views(views):
    twice = joined(blobs(4, 0), blobs(4, 0))
    before = consistency(twice, views)
    brighter = replace(views, images=views.images * torch.tensor([1.2, 1.0])[:, None, None, None])
    after = consistency(twice, brighter)
    assert (after[0, VIEW_SIGNED] < before[0, VIEW_SIGNED] - 0.05).all()
    assert after[1, VIEW_SIGNED].equal(before[1, VIEW_SIGNED]) and after[1, SIGNED].equal(before[1, SIGNED])


def test_a_view_is_not_compared_with_its_own_prediction(prediction, views):
    before = consistency(prediction, views)
    colours = prediction.features_dc.clone()
    colours[:4] += 1
    after = consistency(replace(prediction, features_dc=colours), views)
    across = [SIGNED, ABSOLUTE, COVERED, VIEW_SIGNED, VIEW_ABSOLUTE]
    assert after[0, across].equal(before[0, across])
    assert (after[1, [VIEW_SIGNED, VIEW_ABSOLUTE]] != before[1, [VIEW_SIGNED, VIEW_ABSOLUTE]]).all()
    assert after[0, SCENE].ne(before[0, SCENE]).all() and after[0, OWN].ne(before[0, OWN]).any()


def test_pixels_that_do_not_count_say_nothing(prediction, views):
    masks = torch.ones_like(views.images[..., :1])
    masks[0, :6] = 0
    before = consistency(prediction, replace(views, masks=masks))
    images = views.images.clone()
    images[0, :6] = 0.7
    assert consistency(prediction, replace(views, masks=masks, images=images)).equal(before)
