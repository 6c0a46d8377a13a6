import logging
import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from l2o_splat.metrics import Lpips, colour_corrected, mean_of_measured, psnr, ssim


def test_psnr_of_a_known_error():
    image = torch.full((8, 9, 3), 0.5)
    assert psnr(image + 0.1, image) == pytest.approx(20.0, abs=1e-4)
    assert psnr(image, image) == float("inf")


def test_masked_pixels_do_not_count():
    image = torch.rand(24, 30, 3)
    rendered = image + 0.1
    mask = torch.ones(24, 30, 1)
    mask[:, :10] = 0
    spoiled = rendered.clone()
    spoiled[:, :10] = 5.0
    assert psnr(spoiled, image, mask) == pytest.approx(20.0, abs=1e-4)
    assert psnr(spoiled, image) < 10
    # A window is 11 pixels wide: of those around pixels that count here, none reaches the spoiled ones.
    mask[:, :16] = 0
    assert ssim(spoiled, image, mask) == pytest.approx(ssim(rendered, image, mask), abs=1e-5)
    assert ssim(spoiled, image) < ssim(rendered, image) - 0.1


def test_ssim_under_a_mask_is_the_mean_over_its_whole_windows():
    """For two flat halves it has a closed form wherever no window reaches across the middle."""
    rendered, photograph = torch.full((24, 40, 3), 0.5), torch.full((24, 40, 3), 0.5)
    rendered[:, :20], photograph[:, :20] = 0.3, 0.8
    different = (2 * 0.3 * 0.8 + 1e-4) / (0.3**2 + 0.8**2 + 1e-4)
    for left, right in ((14, 0), (0, 12), (8, 14)):
        mask = torch.zeros(24, 40, 1)
        mask[:, :left] = mask[:, 40 - right :] = 1
        # Windows reach 5 pixels to either side.
        left, right = max(left - 5, 0), max(right - 5, 0)
        expected = (left * different + right) / (left + right)
        assert ssim(rendered, photograph, mask) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("garbage", [0.0, 7.0, float("nan"), float("inf")])
def test_nothing_under_a_mask_changes_a_measure(garbage):
    """A hole and a band at the border; whatever is there in photograph or render, every measure stays."""
    generator = torch.Generator().manual_seed(0)
    photograph, rendered = torch.rand(2, 40, 48, 3, generator=generator)
    mask = torch.ones(40, 48, 1)
    mask[10:14, 20:23], mask[:, :6] = 0, 0
    spoiled = [torch.where(mask > 0.5, image, garbage) for image in (rendered, photograph)]
    for measure in (psnr, ssim, differing_pixels()):
        expected = measure(rendered, photograph, mask)
        assert measure(*spoiled, mask) == measure(spoiled[0], photograph, mask) == expected
        assert math.isfinite(expected) and expected != measure(rendered, photograph)
    assert psnr(rendered, photograph, torch.ones(40, 48, 1)) == pytest.approx(psnr(rendered, photograph), abs=1e-5)
    assert ssim(rendered, photograph, torch.ones(40, 48, 1)) == pytest.approx(ssim(rendered, photograph), abs=1e-5)


def differing_pixels():
    """LPIPS whose network counts the pixels that differ."""
    metric = Lpips()
    network = torch.nn.Module()
    network.forward = lambda a, b: (a != b).any(dim=-1).float().sum(dim=(1, 2))
    metric._network = network
    return metric


def test_a_view_with_nothing_that_counts_has_no_quality():
    image = torch.rand(24, 30, 3)
    nothing, narrow = torch.zeros(24, 30, 1), torch.zeros(24, 30, 1)
    narrow[:, 10:16] = 1
    for measure in (psnr, ssim, differing_pixels()):
        assert measure(image, 1 - image, nothing) is None
    assert psnr(image, 1 - image, narrow) is not None and ssim(image, 1 - image, narrow) is None
    assert mean_of_measured([None, 20.0, 30.0]) == 25 and mean_of_measured([None]) is None


def test_ssim_orders_images_by_structure():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(32, 32, 3, generator=generator)
    noisy = (image + 0.1 * torch.randn(32, 32, 3, generator=generator)).clamp(0, 1)
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-5)
    assert ssim(torch.full_like(image, 0.5), image) < ssim(noisy, image) < 1


def test_lpips_without_its_backbone_is_left_out_with_one_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("L2O_SPLAT_CACHE", str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    metric = Lpips()
    image = torch.rand(64, 64, 3)
    with caplog.at_level(logging.WARNING):
        assert metric(image, image) is None
        assert metric(image, image) is None
    assert [record.message.startswith("LPIPS is left out") for record in caplog.records] == [True]


@pytest.mark.parametrize("height", [11, 65, 150])
def test_ssim_is_that_of_torchmetrics_however_many_strips_the_image_has(height):
    generator = torch.Generator().manual_seed(height)
    image = torch.rand(1, 3, height, 40, generator=generator)
    noisy = (image + 0.2 * torch.randn(1, 3, height, 40, generator=generator)).clamp(0, 1)
    _, expected = structural_similarity_index_measure(noisy, image, data_range=1.0, return_full_image=True)
    noisy, image = (picture[0].movedim(0, -1) for picture in (noisy, image))
    assert ssim(noisy, image) == pytest.approx(float(expected.mean()), abs=1e-6)


def test_colours_are_corrected_by_the_affine_transform_that_suits_best():
    photograph = torch.rand(20, 24, 3)
    matrix = torch.tensor([[0.6, 0.1, 0.0], [0.05, 0.7, 0.0], [0.0, 0.1, 0.5]])
    rendered = photograph @ matrix + torch.tensor([0.05, 0.1, 0.2])
    torch.testing.assert_close(colour_corrected(rendered, photograph), photograph, atol=1e-5, rtol=0)
    noisy = rendered + 0.1 * torch.randn(20, 24, 3)
    assert psnr(colour_corrected(noisy, photograph), photograph) > psnr(noisy, photograph) + 1


def test_masked_pixels_have_no_part_in_the_correction_of_colours():
    photograph, mask = torch.rand(20, 24, 3), torch.ones(20, 24, 1)
    rendered, mask[:, :12] = 0.8 * photograph, 0
    rendered[:, :12] = 7.0
    corrected = colour_corrected(rendered, photograph, mask)
    torch.testing.assert_close(corrected[:, 12:], photograph[:, 12:], atol=1e-5, rtol=0)
    assert torch.equal(colour_corrected(rendered, photograph, torch.zeros_like(mask)), rendered)


def test_a_flat_image_is_corrected_to_the_mean_colour():
    photograph = torch.rand(20, 24, 3)
    corrected = colour_corrected(torch.full_like(photograph, 0.3), photograph)
    torch.testing.assert_close(corrected, photograph.mean(dim=(0, 1)).expand_as(photograph), atol=1e-5, rtol=0)
