"""Views of a training step: of videos, of captures that name them, at a size, and without exact depths."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.initializer_training.batches import draw_batch, fixed_batch, sized
from l2o_splat.initializer_training.initial_stage import InitialStage
from l2o_splat.initializer_training.networks import new_initial_model
from l2o_splat.initializer_training.options import DepthLossWeights, Losses
from l2o_splat.scenes.capture import Capture, Points, SampledCapture
from l2o_splat.training.errors import TrainingError, UnusableCaptureError
from tests.initializer_training.networks import BATCH, CONFIG, SHAPE, SOURCE

CPU = torch.device("cpu")
AS_IT_IS = replace(BATCH, flip_probability=0.0, turn_probability=0.0, recolour_probability=0.0, range_jitter=0.0)


@pytest.fixture(scope="module")
def capture():
    return SOURCE.capture(0)


def without_depths(capture) -> Capture:
    return Capture(capture.views, capture.points)


def indices(batch_views, capture) -> list[int]:
    return [int((capture.views.images - image).abs().flatten(1).amax(dim=1).argmin()) for image in batch_views.images]


def test_a_capture_that_names_its_views_gives_these(capture):
    sampled = SampledCapture(capture.views, capture.points, context=(1, 4, 5), target=(2, 3))
    for batch in (draw_batch(sampled, AS_IT_IS, np.random.default_rng(0), CPU), fixed_batch(sampled, 2, CPU)):
        assert indices(batch.context, capture) == [1, 4, 5] and indices(batch.target, capture) == [2, 3]
        assert batch.depths is None
    for names in ({"context": (1,), "target": (2,)}, {"context": (1, 2), "target": ()}):
        with pytest.raises(UnusableCaptureError, match="at least 2 and 1 are needed"):
            draw_batch(replace(sampled, **names), AS_IT_IS, np.random.default_rng(0), CPU)


@pytest.mark.parametrize("size", [(16, 48), (32, 32), (40, 60)])
def test_views_are_cropped_to_a_size_with_their_cameras_and_depths(capture, size):
    views, depths = sized(capture.views, capture.depths, replace(BATCH, image_size=size))
    assert views.images.shape[1:3] == depths.shape[1:3] == size
    # What the middle of the photograph shows stays in the middle, and pixels stay square.
    before, after = capture.views.cameras, views.cameras
    factor = max(size[0] / before.height, size[1] / before.width)
    torch.testing.assert_close(after.Ks[:, 0, 0], factor * before.Ks[:, 0, 0], rtol=0.02, atol=0)
    torch.testing.assert_close(after.Ks[:, 1, 1], factor * before.Ks[:, 1, 1], rtol=0.02, atol=0)

    def share_at_their_depth(cameras, depths) -> float:
        """Of the points inside, those that the depth map has; others are hidden."""
        pixels, z = cameras.project(capture.points.xyz)
        seen = cameras.inside(pixels, z)[0]
        column, row = pixels[0][seen].long().T
        return float(((depths[0][row, column] / z[0][seen] - 1).abs() < 0.05).float().mean())

    expected = share_at_their_depth(before, capture.depths)
    assert share_at_their_depth(after, depths) > 0.75 * expected
    assert share_at_their_depth(after, depths.roll(size[1] // 3, 2)) < 0.5 * expected


def test_captures_without_exact_depths_train_without_the_terms_that_need_them(capture):
    plain = without_depths(capture)
    batch = draw_batch(plain, BATCH, np.random.default_rng(0), CPU)
    assert batch.depths is None
    network = new_initial_model(SHAPE, CONFIG, seed=0)
    smooth = Losses(depth=DepthLossWeights(regression=0.0, classification=0.0, smoothness=0.1))
    loss, terms = InitialStage(network, smooth).loss(batch, np.random.default_rng(0))
    loss.backward()
    assert loss.isfinite() and terms.depth_error > 0
    exact = draw_batch(capture, BATCH, np.random.default_rng(0), CPU)
    # Without terms that compare with them, exact depths change nothing.
    assert torch.equal(InitialStage(network, smooth).loss(exact, np.random.default_rng(0))[0], loss)
    numbers = InitialStage(network, smooth).evaluate(network, [batch])
    assert {"psnr", "psnr_context"} <= numbers.keys() and not {"depth_rank", "depth_log_error"} & numbers.keys()
    with pytest.raises(TrainingError, match=r"exact depths, .* --losses.depth.regression 0 --losses.depth.class"):
        InitialStage(network, Losses()).loss(batch, np.random.default_rng(0))


def test_networks_with_a_range_of_their_own_need_no_points(capture):
    empty = Capture(capture.views, Points(torch.zeros(0, 3), torch.zeros(0, 3)))
    with pytest.raises(UnusableCaptureError, match="see 0 of the 0 points"):
        draw_batch(empty, BATCH, np.random.default_rng(0), CPU)
    batch = draw_batch(empty, BATCH, np.random.default_rng(0), CPU, range_of_points=False)
    assert batch.depth_range is None and fixed_batch(empty, 2, CPU, range_of_points=False).depth_range is None
    network = new_initial_model(SHAPE, replace(CONFIG, depth_range="weights", near=0.5, far=20.0), seed=0)
    loss, _ = InitialStage(network, Losses(depth=DepthLossWeights(0.0, 0.0))).loss(batch, np.random.default_rng(0))
    assert loss.isfinite()
