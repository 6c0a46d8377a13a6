"""The loss's own code for CUDA, with a stand-in for the kernels of fused-ssim."""

import pytest
import torch

from l2o_splat import losses
from l2o_splat.losses import photometric_loss
from tests.standins.fused_ssim_package import stand_in_for_fused_ssim
from tests.standins.gsplat_package import Fault


def images(views=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    rendered, photographs = torch.rand(2, views, 17, 23, 3, generator=generator, dtype=torch.float64).to(dtype)
    return rendered.requires_grad_(), photographs


def test_the_loss_and_its_gradient(monkeypatch):
    exact = photometric_loss(*images(dtype=torch.float64))
    package = stand_in_for_fused_ssim(monkeypatch)
    rendered, photographs = images()
    found = photometric_loss(rendered, photographs)
    assert found.item() == pytest.approx(exact.item(), abs=1e-6)
    (call,) = package.calls
    assert call["img1"].shape == (2, 3, 17, 23) and call["padding"] == "valid" and call["train"] is True
    twin, _ = images(dtype=torch.float64)
    (gradient,) = torch.autograd.grad(found, rendered)
    (expected,) = torch.autograd.grad(photometric_loss(twin, photographs.double()), twin)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-7)
    assert len(package.calls) == 1, "float64 is none of its types"


def test_masked_photographs_and_small_images_do_without_it(monkeypatch):
    package = stand_in_for_fused_ssim(monkeypatch)
    rendered, photographs = images()
    masks = torch.ones(2, 17, 23, 1)
    masks[:, :3] = 0
    photometric_loss(rendered, photographs, masks)
    photometric_loss(rendered, photographs, ssim_weight=0.0)
    with pytest.raises(ValueError, match="SSIM needs at least 11 x 11"):
        photometric_loss(rendered[:, :9], photographs[:, :9])
    assert not package.calls


FAULTS = {
    "a wrong argument name": (lambda x, y, **more: ((x, y), {"pad": "valid"}), TypeError, "pad"),
    "channels last": (lambda x, y, **more: ((x.permute(0, 2, 3, 1), y), more), Fault, "is needed"),
    "planes not contiguous": (lambda x, y, **more: ((x.mT.contiguous().mT, y), more), Fault, "img1 is not contiguous"),
    "float64": (lambda x, y, **more: ((x, y.double()), more), Fault, "img2 is torch.float64"),
    "the photograph first": (lambda x, y, **more: ((y, x), more), Fault, "no gradient to img2"),
    "windows that hang over": (lambda x, y, **more: ((x, y), {"train": True}), Fault, "padding='same'"),
    "no gradient wanted": (lambda x, y, **more: ((x, y), {**more, "train": False}), Fault, "train=True"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(monkeypatch, fault):
    change, error, message = FAULTS[fault]
    right = stand_in_for_fused_ssim(monkeypatch).fused_ssim

    def changed(*planes, **more):
        planes, more = change(*planes, **more)
        return right(*planes, **more)

    monkeypatch.setattr(losses, "_fused_ssim", lambda: changed)
    with pytest.raises(error, match=message):
        photometric_loss(*images())
