"""The initializer's scenes: in the world, at the right size, and the same whatever the axes of the world."""

import pytest
import torch

from l2o_splat.gaussians import SH_C0
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.views import PinholeCameras, Views
from tests.resplat_networks import NARROW, NARROW_FINE, context, initializer, moved

RASTER = RasterSettings("antialiased", 0.1)


@pytest.mark.parametrize("shape", [NARROW, NARROW_FINE])
def test_gaussians_lie_on_the_depth_of_their_views(shape):
    views = context(3, 64, 128)
    scene = initializer(shape)(views)
    per_view = 64 * 128 // shape.gaussian_downsample**2
    assert len(scene.gaussians) == len(scene.features) == 3 * per_view and scene.gaussians.sh_degree == 3
    assert scene.depth.shape == (3, 64, 128) and not scene.gaussians.means.requires_grad
    assert not scene.gaussians.count_non_finite()
    for view in range(3):
        means = scene.gaussians.means[view * per_view : (view + 1) * per_view]
        viewmat, K = views.cameras.viewmats[view], views.cameras.Ks[view]
        in_camera = means @ viewmat[:3, :3].T + viewmat[:3, 3]
        pixels = (in_camera @ K.T)[:, :2] / in_camera[:, 2:]
        side = shape.gaussian_downsample
        column, row = (pixels / side).floor().long().unbind(1)
        cell = torch.arange(per_view)
        # Each in its own cell, up to rounding at the borders.
        assert (row == cell // (128 // side)).float().mean() > 0.99
        assert (column == cell % (128 // side)).float().mean() > 0.99
        cells = torch.nn.functional.interpolate(
            scene.depth[view][None, None], size=(64 // side, 128 // side), mode="bilinear", align_corners=True
        )
        torch.testing.assert_close(in_camera[:, 2], cells.flatten(), rtol=1e-3, atol=1e-4)


def test_colours_are_those_of_the_photographs():
    views = context(2)
    start = initializer()
    torch.nn.init.zeros_(start.model.gaussian_head[2].weight)
    torch.nn.init.zeros_(start.model.gaussian_head[2].bias)
    gaussians = start(views).gaussians
    colours = views.images.unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(4, 5)).flatten(0, 2)
    torch.testing.assert_close(gaussians.features_dc * SH_C0 + 0.5, colours, rtol=0, atol=1e-5)
    assert (gaussians.features_rest == 0).all()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_another_world_frame_gives_the_same_scene(scale):
    """Turned, moved and scaled cameras turn, move and scale the Gaussians, and the images stay."""
    start, views = initializer(), context()
    turned, rotation, translation = moved(views, scale)
    first, second = start(views), start(turned, rescaled_by=scale)
    # Rounding of the poses passes through untrained networks.
    expected = scale * first.gaussians.means @ rotation.T + translation
    torch.testing.assert_close(second.gaussians.means, expected, rtol=0, atol=2e-3 * scale)
    torch.testing.assert_close(second.depth, scale * first.depth, rtol=1e-3, atol=0)
    before = render(first.gaussians, views.cameras, RASTER).rgb
    after = render(second.gaussians, turned.cameras, RASTER).rgb
    assert before.std() > 0.05
    assert (after - before).abs().mean() < 1e-3 and (after - before).abs().max() < 0.05
    sh_moved = (second.gaussians.features_rest - first.gaussians.features_rest).abs().mean()
    assert sh_moved > 0.1 * first.gaussians.features_rest.abs().mean(), "view-dependent colour did not turn"


def test_depths_at_half_resolution():
    start = initializer(half_resolution_depth=True)
    views = context(2, 64, 128)
    scene = start(views)
    assert scene.depth.shape == (2, 64, 128) and len(scene.gaussians) == 2 * 16 * 32


def test_windows_of_views_are_predicted_alone():
    views = context(5)
    whole = initializer(world="raw", views_at_once=2)(views)
    pairs = [initializer(world="raw")(views[i : i + 2]) for i in (0, 2, 3)]
    parts = [pairs[0].gaussians, pairs[1].gaussians, pairs[2].gaussians[256:]]
    assert len(whole.gaussians) == len(whole.features) == 5 * 256 and whole.depth.shape[0] == 5
    torch.testing.assert_close(whole.gaussians.means, torch.cat([part.means for part in parts]))
    torch.testing.assert_close(whole.gaussians.quats, torch.cat([part.quats for part in parts]))
    torch.testing.assert_close(whole.depth[4], pairs[2].depth[1])


def test_views_of_any_size_are_fitted():
    scene = initializer()(context(2, 80, 140))
    assert (scene.context.cameras.height, scene.context.cameras.width) == (64, 128)
    assert len(scene.gaussians) == 2 * 16 * 32


def test_local_search_and_bfloat16_stay_close():
    views = context(2)
    exact = initializer()(views)
    for options, limit in ({"precision": "bfloat16"}, 0.1), ({"local_search": True}, 0.2):
        other = initializer(**options)(views)
        assert other.features.shape == exact.features.shape
        error = (other.features.float() - exact.features).norm() / exact.features.norm()
        assert 0 < error < limit, f"{options} changes the features by {error:.1%}"


MASKS = {
    "a hole in all": (slice(0, 3), slice(21, 43), slice(21, 43)),
    "a band in some": (slice(0, 2), slice(0, 64), slice(0, 14)),
}


@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("shape", [NARROW, NARROW_FINE])
def test_masked_pixels_make_no_gaussians(shape, where):
    views, masks, background = context(), torch.ones(3, 64, 64, 1), torch.tensor([0.2, 0.4, 0.6])
    masks[MASKS[where]] = 0
    start, side = initializer(shape), shape.gaussian_downsample
    # The networks see the background, and the Gaussians of the other cells are theirs.
    whole = start(Views(views.cameras, torch.where(masks > 0.5, views.images, background)))
    share = masks.unfold(1, side, side).unfold(2, side, side).mean(dim=(3, 4, 5)).flatten()
    kept = (share >= 0.5).nonzero().flatten()
    for garbage in (torch.tensor([0.0, 1.0, 0.0]), torch.tensor(float("nan"))):
        spoiled = Views(views.cameras, torch.where(masks > 0.5, views.images, garbage), masks)
        scene = start(spoiled, background=background)
        assert scene.cell.equal(kept) and len(kept) < len(whole.gaussians)
        assert scene.gaussians.pack().equal(whole.gaussians.pack()[kept])
        assert scene.features.equal(whole.features[kept]) and scene.depth.equal(whole.depth)
        assert scene.context.masks.equal(masks) and scene.context.images.equal(whole.context.images)
        assert scene.on_grid(scene.features)[kept].equal(scene.features)
        assert scene.at(slice(3, 9)).cell.equal(kept[3:9])


def test_views_that_are_masked_as_a_whole_are_refused():
    views, masks = context(), torch.zeros(3, 64, 64, 1)
    masks[:, 1::4, 1::4] = 1
    with pytest.raises(ValueError, match="Masks leave nothing of the 3 context views"):
        initializer()(Views(views.cameras, views.images, masks))


def test_views_that_do_not_suit_are_refused():
    start, views = initializer(), context(3)
    one = views[:1]
    with pytest.raises(ValueError, match="1 context view; .* give at least 2"):
        start(one)
    tall = PinholeCameras(views.cameras.viewmats, views.cameras.Ks, 64, 128)
    with pytest.raises(ValueError, match="64 x 128 pixels; .* no higher than wide"):
        start(Views(tall, torch.rand(3, 128, 64, 3)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same_scene():
    views = context()
    start = initializer(precision="float32")
    expected = start(views)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = start.cuda()(views.to("cuda"))
    torch.testing.assert_close(found.gaussians.means.cpu(), expected.gaussians.means, rtol=0, atol=5e-3)
