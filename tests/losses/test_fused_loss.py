"""The fused loss of one view against its torch twin in float64; threads; memory; what it refuses."""

import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from l2o_splat import losses, threads
from l2o_splat.losses import l1, photometric_loss, ssim_loss
from l2o_splat.losses.fused import view_loss
from l2o_splat.losses.ssim_kernel import STRIP_WIDTH

SIZES = [(11, 11), (11, 300), (12, 40), (97, 131), (150, 16), (40, STRIP_WIDTH - 1), (30, STRIP_WIDTH), (75, 1100)]


def images_of(height, width, noise=0.1, seed=0):
    """A smooth picture and a noisy one, partly beyond 0 to 1."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.linspace(0, 3, height), np.linspace(0, 5, width), indexing="ij")
    image = np.stack([0.5 + 0.5 * np.sin(rows + k * columns) for k in range(3)], axis=-1)
    rendered = image + noise * rng.standard_normal(image.shape)
    return rendered.astype(np.float32), image.astype(np.float32)


def mask_of(height, width, seed=0):
    """A few single pixels and a border do not count."""
    mask = np.random.default_rng(seed).random((height, width)) > 0.002
    mask[:, 0] = False
    return mask


def twin(rendered, image, mask, ssim_weight):
    """Value and gradient by the torch version in float64."""
    rendered = torch.from_numpy(rendered).double()[None].requires_grad_()
    masks = None if mask is None else torch.from_numpy(mask).double()[None, ..., None]
    value = photometric_loss(rendered, torch.from_numpy(image).double()[None], masks, ssim_weight)
    (gradient,) = torch.autograd.grad(value, rendered)
    return value.item(), gradient[0].numpy()


@pytest.fixture
def threads_restored():
    yield
    threads.set_num_threads(None)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ssim_weight", [0.2, 0.0, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradient_are_those_of_the_twin(size, ssim_weight, masked):
    rendered, image = images_of(*size)
    mask = mask_of(*size) if masked else None
    gradient = np.full_like(rendered, np.nan)
    found = view_loss(rendered, image, mask, ssim_weight, gradient)
    value, expected = twin(rendered, image, mask, ssim_weight)
    assert found.loss == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert np.linalg.norm(gradient - expected) <= 1e-5 * np.linalg.norm(expected)
    assert np.abs(gradient - expected).max() <= 2e-5 * np.abs(expected).max()
    assert view_loss(rendered, image, mask, ssim_weight, None) == found


@pytest.mark.parametrize("noise", [1e-3, 1e-5])
def test_images_that_are_almost_alike_lose_no_digits(noise):
    rendered, image = images_of(60, 70, noise)
    gradient = np.empty_like(rendered)
    found = view_loss(rendered, image, None, 1.0, gradient)
    value, expected = twin(rendered, image, None, 1.0)
    assert found.loss == pytest.approx(value, rel=1e-4)
    assert np.linalg.norm(gradient - expected) <= 1e-4 * np.linalg.norm(expected)


def test_parts_are_the_terms_of_the_loss():
    rendered, image = images_of(40, 50)
    mask = mask_of(40, 50)
    found = view_loss(rendered, image, mask, 0.3, None)
    x, y, masks = (torch.from_numpy(a)[None] for a in (rendered, image, mask[..., None].astype(np.float32)))
    assert found.l1 == pytest.approx(l1(x, y, masks).item(), rel=1e-5)
    assert found.dissimilarity == pytest.approx(ssim_loss(x, y, masks).item(), rel=1e-4)
    assert found.squared_error == pytest.approx(np.square(rendered - image)[mask].mean(), rel=1e-5)
    assert found.loss == pytest.approx(0.7 * found.l1 + 0.3 * found.dissimilarity)
    plain = view_loss(rendered, image, mask, 0.0, None)
    assert (plain.l1, plain.dissimilarity) == (pytest.approx(found.l1, rel=1e-6), 0)
    assert plain.squared_error == pytest.approx(found.squared_error, rel=1e-6)


def test_gradient_equals_finite_differences():
    rendered, image = images_of(24, 30, noise=0.3)
    mask = mask_of(24, 30)
    gradient = np.empty_like(rendered)
    view_loss(rendered, image, mask, 0.4, gradient)
    # Towards the image, at a speed of its own for every number; along so short a step no difference changes its sign.
    direction = (image - rendered) * np.random.default_rng(1).random(rendered.shape, dtype=np.float32)
    step = 0.02
    ahead, behind = (view_loss(rendered + s * direction, image, mask, 0.4, None).loss for s in (step, -step))
    assert (ahead - behind) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


@pytest.mark.parametrize("ssim_weight", [0.2, 0.0])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_masked_numbers_do_not_leak(garbage, ssim_weight):
    rendered, image = images_of(50, 60)
    mask = mask_of(50, 60)
    results = []
    for fill in (0.5, garbage):
        x, y = (
            np.where(mask[..., None], array, np.float32(sign * fill)) for array, sign in ((rendered, 1), (image, -1))
        )
        gradient = np.empty_like(x)
        results.append((view_loss(x, y, mask, ssim_weight, gradient), gradient))
    (found, gradient), (found_again, gradient_again) = results
    assert found == found_again
    assert np.array_equal(gradient, gradient_again)
    assert not gradient[~mask].any()


@pytest.mark.parametrize("ssim_weight", [0.2, 0.0])
def test_a_view_without_pixels_counts_nothing(ssim_weight):
    rendered, image = images_of(20, 30)
    gradient = np.full_like(rendered, np.nan)
    found = view_loss(rendered * np.nan, image, np.zeros((20, 30), bool), ssim_weight, gradient)
    assert found == (0, 0, 0, None)
    assert not gradient.any()


def test_numbers_that_are_not_finite_show():
    rendered, image = images_of(30, 40)
    rendered[7, 8, 1] = np.nan
    assert np.isnan(view_loss(rendered, image, None, 0.2, None).loss)
    rendered, image = images_of(30, 40)
    assert np.isfinite(view_loss(rendered, image, None, 0.2, None).loss)


@pytest.mark.parametrize("ssim_weight", [0.2, 0.0])
@pytest.mark.parametrize("size", [(300, 75), (210, 1100)])
def test_results_do_not_depend_on_the_number_of_threads(size, ssim_weight, threads_restored):
    rendered, image = images_of(*size)
    for mask in (None, mask_of(*size)):
        results = []
        for count in (1, 2, 3):
            threads.set_num_threads(count)
            gradient = np.full_like(rendered, np.nan)
            results.append((view_loss(rendered, image, mask, ssim_weight, gradient), gradient))
        for found, gradient in results[1:]:
            assert found == results[0][0]
            assert np.array_equal(gradient, results[0][1])


def test_it_can_be_called_from_threads_of_the_pool(threads_restored):
    threads.set_num_threads(3)
    views = [images_of(200, 80, seed=seed) for seed in range(6)]
    expected = [view_loss(*view, None, 0.2, None) for view in views]
    assert threads.run(lambda v: view_loss(*views[v], None, 0.2, None), 6) == expected


def test_refusals_name_the_arrays():
    rendered, image = images_of(20, 30)
    for arguments, found in (
        ((rendered[:10], image, None, 0.2, None), r"rendered float32 (10, 30, 3), image float32 (20, 30, 3)"),
        ((rendered, image.astype(float), None, 0.2, None), "image float64"),
        ((rendered, image, np.ones((20, 30), np.float32), 0.2, None), "mask float32"),
        ((rendered, image, None, 0.2, np.empty((20, 3, 30), np.float32).transpose(0, 2, 1)), "contiguous"),
    ):
        with pytest.raises(ValueError) as error:
            view_loss(*arguments)
        assert found in str(error.value)
    with pytest.raises(ValueError, match="20 x 9 pixels; SSIM needs at least 11 x 11"):
        view_loss(rendered[:9, :20].copy(), image[:9, :20].copy(), None, 0.2, None)


class TestAutograd:
    def leaf(self):
        rendered, image = images_of(30, 40)
        return torch.from_numpy(rendered)[None].repeat(2, 1, 1, 1).requires_grad_(), torch.from_numpy(image)[
            None
        ].repeat(2, 1, 1, 1)

    def test_views_that_are_not_contiguous(self):
        rendered, images = self.leaf()
        (expected,) = torch.autograd.grad(photometric_loss(rendered, images), rendered)
        turned = rendered.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        (gradient,) = torch.autograd.grad(photometric_loss(turned, images), turned)
        assert torch.equal(gradient, expected)

    def test_upstream_gradients_scale_it_and_backward_may_come_twice(self):
        rendered, images = self.leaf()
        loss = photometric_loss(rendered, images)
        (once,) = torch.autograd.grad(loss, rendered, retain_graph=True)
        (thrice,) = torch.autograd.grad(3 * loss, rendered)
        torch.testing.assert_close(thrice, 3 * once)

    def test_no_gradient_is_made_that_nobody_needs(self, monkeypatch):
        given = []
        monkeypatch.setattr("l2o_splat.losses.fused.view_loss", lambda *a: given.append(a[4]) or view_loss(*a))
        rendered, images = self.leaf()
        assert not photometric_loss(rendered.detach(), images).requires_grad
        with torch.no_grad():
            photometric_loss(rendered, images)
        assert given == [None] * 4

    def test_second_derivatives_are_refused(self):
        rendered, images = self.leaf()
        (gradient,) = torch.autograd.grad(photometric_loss(rendered, images), rendered, create_graph=True)
        with pytest.raises(RuntimeError, match="has no second derivatives"):
            # There is another path to the input, which alone would give an answer.
            torch.autograd.grad((gradient * rendered).sum(), rendered)


class TestFusedSsimPackage:
    def test_it_computes_the_ssim_term_on_cuda_without_masks(self, monkeypatch):
        calls = []

        def fused_ssim(planes, constants, padding, train):
            calls.append((planes.shape, planes.is_contiguous(), padding, train))
            return losses.ssim_map(planes.permute(0, 2, 3, 1), constants.permute(0, 2, 3, 1)).mean()

        monkeypatch.setitem(sys.modules, "fused_ssim", types.SimpleNamespace(fused_ssim=fused_ssim))
        rendered, image = images_of(20, 30)
        x = torch.from_numpy(np.stack([rendered, rendered**2])).requires_grad_()
        y = torch.from_numpy(np.stack([image, image]))
        masks = torch.ones(2, 20, 30, 1)
        expected = ssim_loss(x, y)
        assert not calls
        monkeypatch.setattr(losses, "_on_cuda", lambda tensor: True)
        found = ssim_loss(x, y)
        assert calls == [((2, 3, 20, 30), True, "valid", True)]
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(value, x)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients)
        ssim_loss(x, y, masks)
        ssim_loss(x.double(), y.double())
        assert len(calls) == 1


MEMORY = """
import torch
from l2o_splat.losses import photometric_loss

def resident(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def images_added(height, width, dtype):
    images = torch.rand(3, height, width, 3, dtype=dtype)
    rendered = torch.rand(3, height, width, 3, dtype=dtype).requires_grad_()
    before = resident("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
    torch.autograd.grad(photometric_loss(rendered, images), rendered)
    return (resident("VmHWM") - before) / images[0].nbytes

images_added(100, 100, torch.float32)  # compiles or loads the kernel
print(images_added(600, 900, torch.float32), images_added(600, 900, torch.float64))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_nothing_of_image_size_is_kept_but_the_gradient():
    """For three views; the twin shows that the measurement sees what is kept."""
    run = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    fused, twin_in_torch = map(float, run.stdout.split())
    assert fused <= 3.5
    assert twin_in_torch >= 10
