"""Choice of context views, and their sizes."""

import pytest
import torch

from l2o_splat.initializers.context_views import (
    choose_context,
    choose_evenly,
    crop_to_multiple,
    depth_range,
    fit,
    lonely_views,
)
from l2o_splat.views import PinholeCameras, Views
from tests.resplat_networks import context

UNITS = {"multiple": 64, "longer_side": 10**6}


def test_a_spread_choice_begins_with_the_ends_of_a_line():
    centres = torch.stack([torch.linspace(0, 1, 21), torch.zeros(21), torch.zeros(21)], dim=1)
    assert choose_context(centres, 3) == [0, 10, 20]
    assert choose_context(centres, 50) == list(range(21))


def ray_colours(views):
    """Views whose pixels hold the slopes of their own rays."""
    cameras = views.cameras
    y, x = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=2)
    return torch.einsum("vij,hwj->vhwi", torch.linalg.inv(cameras.Ks), pixels) * 0.2 + 0.5


@pytest.mark.parametrize("how", ["squeeze", "crop", "enlarge"])
@pytest.mark.parametrize("size", [(90, 150), (128, 192), (100, 130)])
def test_cameras_follow_their_images(how, size):
    views = context(2, *size)
    views = Views(views.cameras, ray_colours(views))
    fitted = fit(views, how=how, **UNITS)
    assert fitted.cameras.height % 64 == fitted.cameras.width % 64 == 0
    assert (fitted.cameras.height >= size[0]) == (how == "enlarge" or size[0] % 64 == 0)
    # Bilinear enlargement keeps the centres of the corner pixels, up to half a pixel off; the slope of a ray tells.
    tolerance = 0.2 * 0.6 / 64 if how == "enlarge" else 2e-3
    inner = (slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(fitted.images[inner], ray_colours(fitted)[inner], rtol=0, atol=tolerance)


def test_large_views_are_reduced():
    fitted = fit(context(2, 200, 300), 64, 160, "squeeze")
    assert (fitted.cameras.width, fitted.cameras.height) == (128, 64) and fitted.masks is None
    same = context(2, 64, 128)
    assert fit(same, 64, 448, "crop").images.equal(same.images)


@pytest.mark.parametrize("how", ["squeeze", "crop", "enlarge"])
@pytest.mark.parametrize("size", [(64, 128), (150, 250), (170, 200)])
def test_a_fitted_pixel_counts_only_if_everything_in_it_counts(how, size):
    """What is under a mask changes no pixel that counts, and no more of them are lost than the filter reaches."""
    views = context(2, *size)
    masks = torch.ones(2, *size, 1)
    masks[0, :9], masks[1, 20:40, 30:50] = 0, 0
    plain = fit(views, 64, 160, how)
    assert fit(Views(views.cameras, views.images, torch.ones_like(masks)), 64, 160, how).masks.eq(1).all()
    for garbage in (0.0, 1.0, float("nan")):
        spoiled = Views(views.cameras, torch.where(masks > 0.5, views.images, garbage), masks)
        fitted = fit(spoiled, 64, 160, how)
        counted = fitted.masks > 0.5
        torch.testing.assert_close(
            torch.where(counted, fitted.images, 0), torch.where(counted, plain.images, 0), rtol=0, atol=1e-5
        )
    if how == "squeeze":
        area = torch.nn.functional.interpolate(masks.movedim(-1, 1), size=counted.shape[1:3], mode="area")
        taken = counted.movedim(-1, 1)
        assert (area[taken] == 1).all()
        # The filter reaches two pixels of the new size to either side.
        clear = -torch.nn.functional.max_pool2d(-area, 5, stride=1, padding=2) == 1
        assert taken[clear].all() and clear.any()
    blank = fitted.blanked(torch.tensor([0.1, 0.2, 0.3]))
    assert blank.images[~counted[..., 0]].unique(dim=0).allclose(torch.tensor([[0.1, 0.2, 0.3]]))
    assert blank.images[counted[..., 0]].equal(fitted.images[counted[..., 0]]) and blank.masks is fitted.masks


def test_views_that_cannot_fit_are_refused():
    with pytest.raises(ValueError, match="200 x 50 pixels .* need at least 64 x 64"):
        fit(context(2, 50, 200), 64, 448, "squeeze")
    assert fit(context(2, 50, 200), 64, 448, "enlarge").cameras.height == 64
    with pytest.raises(ValueError, match="not by 'stretch'"):
        fit(context(2, 128, 128), 64, 448, "stretch")


def test_the_original_crop_keeps_the_relative_principal_point():
    cameras = PinholeCameras(torch.eye(4)[None], torch.tensor([[[50.0, 0, 60], [0, 50, 30], [0, 0, 1]]]), 100, 70)
    views = Views(cameras, torch.zeros(1, 70, 100, 3))
    exact, original = (crop_to_multiple(views, 64, move).cameras.Ks[0, :2, 2] for move in (True, False))
    assert exact.tolist() == [60 - 18, 30 - 3]
    torch.testing.assert_close(original, torch.tensor([60 * 0.64, 30 * 64 / 70]))


def test_an_even_choice_includes_the_ends():
    assert choose_evenly(9, 3) == [0, 4, 8]
    assert choose_evenly(7, 4) == [0, 2, 4, 6]
    assert choose_evenly(3, 8) == [0, 1, 2]
    assert all(len(set(choose_evenly(n, k))) == k for n in range(2, 30) for k in range(2, n + 1))


def facing(directions, centres):
    """Cameras with a field of view of 90 degrees at the given centres, looking along x (1), -x (-1) or z (0)."""
    z_axes = {1: [1.0, 0, 0], -1: [-1.0, 0, 0], 0: [0, 0, 1.0]}
    viewmats = torch.eye(4).repeat(len(directions), 1, 1)
    for viewmat, direction, centre in zip(viewmats, directions, centres, strict=True):
        z = torch.tensor(z_axes[direction])
        y = torch.tensor([0, 1.0, 0])
        viewmat[:3, :3] = torch.stack([torch.linalg.cross(y, z), y, z])
        viewmat[:3, 3] = -viewmat[:3, :3] @ torch.tensor(centre)
    K = torch.tensor([[32.0, 0, 32], [0, 32, 32], [0, 0, 1]]).repeat(len(directions), 1, 1)
    return PinholeCameras(viewmats, K, 64, 64)


def test_views_that_share_nothing_are_found():
    left, right = [-1.0, 0, 0], [1.0, 0, 0]
    assert lonely_views(facing([-1, 1], [left, right]), 0.01, 100) == [0, 1], "back to back"
    assert lonely_views(facing([1, -1], [left, right]), 0.01, 100) == [], "face to face"
    assert lonely_views(facing([1, 1, -1], [left, right, left]), 0.01, 100) == [2]
    # Parallel views two apart meet from a depth of 1 on.
    assert lonely_views(facing([0, 0], [left, right]), 0.01, 0.9) == [0, 1]
    assert lonely_views(facing([0, 0], [left, right]), 0.01, 5) == []


def test_the_range_of_depths_holds_the_points():
    cameras = facing([0, 0], [[-1.0, 0, 0], [1.0, 0, 0]])
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2000, 3, generator=generator) * torch.tensor([1.0, 1.0, 4.0]) + torch.tensor([0, 0, 3.0])
    outlier = torch.tensor([[0, 0, 1e6], [0, 0, 1e-3], [0, 0, -5.0]])
    near, far = depth_range(torch.cat([points, outlier]), cameras)
    assert near.shape == far.shape == (2,)
    assert ((near > 2.3) & (near < 2.5)).all() and ((far > 8.7) & (far < 9.2)).all()
    # A camera 2 nearer has a range of its own, and one that sees nothing that of all.
    three = facing([0, 0, 1], [[-1.0, 0, 0], [1.0, 0, 2], [50.0, 0, 0]])
    near, far = depth_range(points, three)
    assert 2.3 < near[0] < 2.5 and near[1] < 1.3 and far[1] < far[0] - 2
    assert near[1] < near[2] < near[0] and far[1] < far[2] <= far[0]
    with pytest.raises(ValueError, match="see 2 of the 3 points, and at least 20"):
        depth_range(torch.tensor([[0, 0, 5.0], [9.0, 0, 1], [0, 0, -5.0]]), cameras)
