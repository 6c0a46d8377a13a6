"""Photographs reduced by area averaging: closed forms, masks, alpha, and cameras that see the same in them."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from l2o_splat import threads
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.reduction import (
    LEAST_SIDE,
    reduced_cameras,
    reduced_in_torch,
    reduced_photograph,
    reduced_size,
    usable_scale,
)
from l2o_splat.rendering import render
from l2o_splat.views import PinholeCameras, image_of_stored
from tests.rendering.scenes import random_scene

SIZES = [(48, 36), (24, 18), (32, 24), (64, 48), (95, 71), (7, 5), (96, 50)]
"""Of a reduced photograph of 96 x 72: halves, quarters, thirds, two thirds, odd ones, one side alone."""


def noise(height=72, width=96, channels=3, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (height, width, channels), generator=generator, dtype=torch.uint8)


def coverage(old: int, new: int) -> np.ndarray:
    """Share of each reduced pixel that each pixel covers along an axis, from the definition in exact fractions."""
    ratio = Fraction(old, new)
    covered = [
        [max(min(Fraction(j + 1), (i + 1) * ratio) - max(Fraction(j), i * ratio), Fraction(0)) for j in range(old)]
        for i in range(new)
    ]
    return np.array([[part / ratio for part in row] for row in covered], dtype=np.float64)


@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_is_the_mean_of_the_area_that_it_covers(size):
    pixels, (width, height) = noise(), size
    exact = np.einsum("yj,jkc,xk->yxc", coverage(72, height), pixels.numpy().astype(np.float64), coverage(96, width))
    found, mask = reduced_photograph(pixels, None, width, height)
    assert mask is None and found.dtype == torch.uint8
    assert np.abs(found.numpy() - exact).max() <= 0.5 + 1e-9
    floats, _ = reduced_photograph(pixels.double() / 255, None, width, height)
    np.testing.assert_allclose(255 * floats.numpy(), exact, rtol=1e-12)


def test_a_checkerboard_becomes_grey_and_a_ramp_stays_one():
    board = (255 * (torch.arange(64)[:, None] + torch.arange(80) & 1)).to(torch.uint8)[..., None].repeat(1, 1, 3)
    assert (reduced_photograph(board, None, 20, 16)[0] == 128).all()
    ramp = (2 * torch.arange(120)).to(torch.uint8).expand(90, 120)[..., None].repeat(1, 1, 3)
    for width in (60, 40, 80, 30):
        # The value at column x is 2 x - 1 of pixel coordinates, whose mean over a pixel is that of its centre.
        centres = (torch.arange(width) + 0.5) * 120 / width
        found = reduced_photograph(ramp, None, width, 45)[0].double()
        assert ((2 * centres - 1) - found[..., 0]).abs().max() <= 0.5
        assert (found == found[:1]).all()


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_the_kernels_give_the_numbers_of_torch(size, channels):
    pixels, mask = noise(channels=channels), noise(channels=1, seed=1) > 5
    if channels == 4:
        pixels[20:50, 30:70, 3] = 0
    assert reduced_photograph(pixels, None, *size)[0].equal(reduced_in_torch(pixels, None, *size)[0])
    (found, counts), (expected, counts_in_torch) = (
        reduce(pixels, mask, *size) for reduce in (reduced_photograph, reduced_in_torch)
    )
    assert counts.equal(counts_in_torch)
    assert found[counts[..., 0]].equal(expected[counts[..., 0]])


@pytest.mark.parametrize("size", SIZES)
def test_a_pixel_counts_only_if_all_that_it_covers_does(size):
    (width, height), mask = size, torch.ones(72, 96, 1, dtype=torch.bool)
    mask[11, 50], mask[40:43, :7] = False, False
    pixels = noise()
    found, counted = reduced_photograph(pixels, mask, width, height)
    uncounted = coverage(72, height) @ (~mask[..., 0]).double().numpy() @ coverage(96, width).T
    assert counted.dtype == torch.bool and np.array_equal(counted[..., 0].numpy(), uncounted == 0)
    assert 0 < counted.sum() < counted.numel()
    # Whatever lies under the mask shows in no pixel that counts.
    spoiled = torch.where(mask, pixels.float() / 255, torch.nan)
    clean, _ = reduced_photograph(pixels.float() / 255, None, width, height)
    reduced, _ = reduced_photograph(spoiled, mask, width, height)
    assert reduced.isfinite().all() and reduced[counted[..., 0]].equal(clean[counted[..., 0]])
    assert found[counted[..., 0]].equal(reduced_photograph(pixels, None, width, height)[0][counted[..., 0]])


def test_on_any_background_it_is_the_mean_of_the_photograph_on_it():
    pixels = noise(channels=4)
    pixels[:, :50, 3] = 0
    pixels[10:30, :, 3] = 255
    reduced, _ = reduced_photograph(pixels, None, 41, 31)
    for colour in ([0.0, 0.0, 0.0], [1.0, 0.5, 0.2]):
        background = torch.tensor(colour)
        mean, _ = reduced_photograph(image_of_stored(pixels, background), None, 41, 31)
        # Colour and alpha are rounded to 8 bits each.
        assert (image_of_stored(reduced, background) - mean).abs().max() < 1.01 / 255


def test_colours_of_transparent_pixels_show_nowhere():
    pixels = noise(channels=4)
    pixels[..., 3] = torch.where(noise(channels=1, seed=1)[..., 0] > 100, 255, 0)
    other = torch.where(pixels[..., 3:] == 0, 255 - pixels, pixels)
    other[..., 3] = pixels[..., 3]
    assert not other.equal(pixels)
    assert reduced_photograph(pixels, None, 40, 30)[0].equal(reduced_photograph(other, None, 40, 30)[0])


def test_a_repetition_is_bit_for_bit_the_same_with_any_number_of_threads():
    pixels = [noise(seed=seed) for seed in range(4)]
    found = []
    for count in (1, 2, None):
        threads.set_num_threads(count)
        found.append(torch.stack(threads.run(lambda i: reduced_photograph(pixels[i], None, 53, 41)[0], 4)))
    assert found[0].equal(found[1]) and found[0].equal(found[2])


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 1.5])
def test_a_render_of_the_reduced_camera_is_the_mean_of_the_render(scale):
    """The reduced camera sees every point where the reduced photograph shows it, at odd sizes too."""
    gaussians, cameras = random_scene(n=40, width=201, height=143, views=2)
    gaussians.scales.add_(1.0)  # Smooth images, so that reducing changes no edges.
    size = reduced_size(scale, cameras.width, cameras.height)
    settings = RasterSettings(eps2d=1e-4)
    full, smaller = (render(gaussians, c, settings).rgb for c in (cameras, reduced_cameras(cameras, *size)))
    mean = torch.stack([reduced_photograph(image, None, *size)[0] for image in full])
    assert (smaller - mean).abs().mean() < 2e-3
    # Half a pixel off is seen at once.
    shifted = reduced_cameras(cameras, *size)
    shifted.Ks[:, 0, 2] += 0.5
    assert (render(gaussians, shifted, settings).rgb - mean).abs().mean() > 4e-3


def test_pixel_coordinates_keep_their_place():
    Ks = torch.tensor([[[70.0, 0.0, 51.0], [0.0, 71.0, 33.0], [0.0, 0.0, 1.0]]])
    cameras = PinholeCameras(torch.eye(4)[None], Ks, 201, 143)
    reduced = reduced_cameras(cameras, 67, 48)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 0.0, 4.0])
    expected = cameras.project(points)[0] * torch.tensor([67 / 201, 48 / 143])
    torch.testing.assert_close(reduced.project(points)[0], expected)


@pytest.mark.parametrize(
    ("scale", "size", "expected"),
    [
        (1.0, (640, 480), (640, 480)),
        (0.25, (640, 480), (160, 120)),
        (0.25, (540, 960), (135, 240)),
        (1 / 3, (100, 301), (64, 193)),
        (0.25, (200, 128), (100, 64)),
        (0.5, (48, 36), (48, 36)),
    ],
)
def test_the_shorter_side_keeps_64_pixels(scale, size, expected):
    assert reduced_size(scale, *size) == expected
    assert min(expected) >= min(LEAST_SIDE, *size)
    usable = usable_scale(scale, *size)
    assert usable >= scale and usable_scale(usable, *size) == usable


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5, float("nan")])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        usable_scale(scale, 640, 480)
