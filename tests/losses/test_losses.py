"""The inner loss against closed forms, a direct SSIM and finite differences; masks."""

from pathlib import Path

import pytest
import torch

from l2o_splat import losses
from l2o_splat.losses import C1, C2, l1, photometric_loss, ssim_loss, ssim_map

FIXTURE = Path(__file__).resolve().parents[3] / "shared" / "golden" / "learn2splat_a.pt"


def pair(views=2, height=17, width=20, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, views, height, width, 3, generator=generator, dtype=dtype)


def direct_ssim(x, y):
    """SSIM of one window at a time, as the definition reads."""
    t = torch.arange(11, dtype=x.dtype) - 5
    weights = torch.exp(-(t[:, None] ** 2 + t**2) / (2 * 1.5**2))
    weights /= weights.sum()

    def mean(values):
        return torch.einsum("vhwcij,ij->vhwc", values.unfold(1, 11, 1).unfold(2, 11, 1), weights)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return (2 * mx * my + C1) * (2 * cov + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))


@pytest.mark.skipif(not FIXTURE.exists(), reason=f"{FIXTURE} is absent")
def test_golden_values_and_gradient():
    golden = torch.load(FIXTURE, weights_only=True)
    images = golden["loss/gt"][0].permute(0, 2, 3, 1)
    rendered = golden["loss/pred"][0].permute(0, 2, 3, 1).clone().requires_grad_()
    value = photometric_loss(rendered, images)
    value.backward()
    torch.testing.assert_close(value.detach(), golden["loss/value"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(l1(rendered, images).detach(), golden["loss/l1"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ssim_loss(rendered, images).detach(), golden["loss/ssim"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rendered.grad, golden["loss/grad_pred"][0].permute(0, 2, 3, 1), rtol=1e-4, atol=1e-8)


def test_ssim_map_is_the_direct_one():
    x, y = pair(dtype=torch.float64)
    torch.testing.assert_close(ssim_map(x, y), direct_ssim(x, y))


def test_flat_images_have_the_closed_form():
    a, b = torch.full((1, 11, 11, 3), 0.3), torch.full((1, 11, 11, 3), 0.8)
    expected = (2 * 0.3 * 0.8 + C1) / (0.3**2 + 0.8**2 + C1)
    torch.testing.assert_close(ssim_map(a, b), torch.full((1, 1, 1, 3), expected), rtol=1e-3, atol=0)
    assert photometric_loss(a, a).item() == pytest.approx(0, abs=1e-6)


def test_gradient_equals_finite_differences():
    x, y = pair(views=1, height=13, width=12, dtype=torch.float64)
    masks = torch.ones(1, 13, 12, 1, dtype=torch.float64)
    masks[0, 0, 0] = 0
    for mask in (None, masks):
        assert torch.autograd.gradcheck(lambda image, m=mask: photometric_loss(image, y, m), x.clone().requires_grad_())


def test_views_are_summed():
    x, y = pair(views=3)
    apart = sum(photometric_loss(x[v : v + 1], y[v : v + 1]) for v in range(3))
    torch.testing.assert_close(photometric_loss(x, y), apart)


@pytest.mark.parametrize("masked", [False, True])
def test_large_views_are_compared_one_by_one(monkeypatch, masked):
    x, y = pair(views=5, dtype=torch.float64)
    masks = (torch.rand(5, 17, 20, 1, generator=torch.Generator().manual_seed(1)) > 0.02).double() if masked else None
    found = []
    for pixels in (2**24, 2 * 17 * 20, 1):
        monkeypatch.setattr(losses, "PIXELS_AT_ONCE", pixels)
        rendered = x.clone().requires_grad_()
        loss = photometric_loss(rendered, y, masks)
        found.append((loss.detach(), *torch.autograd.grad(loss, rendered)))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


@pytest.mark.parametrize("garbage", [7.0, float("nan"), float("inf")])
def test_masked_pixels_change_neither_value_nor_gradient(garbage):
    x, y = pair()
    masks = torch.ones(2, 17, 20, 1)
    masks[0, :3] = 0
    masks[1, 8, 4] = 0
    results = []
    for fill in (0.5, garbage):
        rendered = torch.where(masks > 0.5, x, torch.tensor(fill)).requires_grad_()
        images = torch.where(masks > 0.5, y, torch.tensor(1 - fill))
        value = photometric_loss(rendered, images, masks)
        value.backward()
        results.append((value.detach(), rendered.grad))
        assert rendered.grad[(masks < 0.5).expand_as(x)].abs().max() == 0
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_masking_a_border_is_cropping_it():
    x, y = pair()
    masks = torch.ones(2, 17, 20, 1)
    masks[:, :3] = 0
    masks[:, :, 18:] = 0
    torch.testing.assert_close(photometric_loss(x, y, masks), photometric_loss(x[:, 3:, :18], y[:, 3:, :18]))


def test_a_view_without_pixels_counts_nothing():
    x, y = pair()
    masks = torch.ones(2, 17, 20, 1)
    masks[1] = 0
    torch.testing.assert_close(photometric_loss(x, y, masks), photometric_loss(x[:1], y[:1]))


def test_refusals_name_the_shapes():
    x, y = pair()
    with pytest.raises(ValueError, match=r"rendered \(2, 17, 20, 3\), images \(1, 17, 20, 3\)"):
        photometric_loss(x, y[:1])
    with pytest.raises(ValueError, match=r"masks \(2, 17, 20\)"):
        photometric_loss(x, y, torch.ones(2, 17, 20))
    with pytest.raises(ValueError, match="20 x 9 pixels; SSIM needs at least 11 x 11"):
        photometric_loss(x[:, :9], y[:, :9])
    assert photometric_loss(x[:, :9], y[:, :9], ssim_weight=0) > 0
