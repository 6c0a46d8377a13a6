"""What is under a mask counts nowhere: start, steps and quality, by every method."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.metrics import psnr, ssim
from l2o_splat.optim.rule import RenderedViews
from l2o_splat.plugin import model
from l2o_splat.plugin.bench.held_out import HeldOutViews
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.views import StoredPhotographs, Views
from l2o_splat.weights import Weights, WeightsCard, save_weights
from tests.plugin.captures import HEIGHT, WIDTH, edit_transforms, method_config, train
from tests.plugin.console import printed
from tests.resplat_networks import NARROW, OPTIONS, context, initializer, rule

BAND = slice(WIDTH - 10, WIDTH)


@pytest.fixture
def banded_capture(tiny_capture):
    """A green band at the right border of every other photograph, which is masked."""

    def add_masks(meta):
        for number, frame in enumerate(meta["frames"]):
            path = tiny_capture / frame["file_path"]
            pixels, mask = np.array(Image.open(path)), np.full((HEIGHT, WIDTH), 255, np.uint8)
            if number % 2 == 0:
                pixels[:, BAND], mask[:, BAND] = (0, 255, 0), 0
            Image.fromarray(pixels).save(path)
            frame["mask_path"] = f"mask-{path.name}"
            Image.fromarray(mask).save(tiny_capture / frame["mask_path"])

    edit_transforms(tiny_capture, add_masks)
    return tiny_capture


@pytest.fixture
def nan_under_masks(monkeypatch):
    """Photographs hold NaN where they are masked, which nothing survives that so much as adds it."""
    read, read_stored = model.photograph_and_mask, StoredPhotographs.photograph

    def spoiled(data, background):
        image, mask = read(data, background)
        return torch.where(mask > 0.5, image, torch.nan), mask

    def spoiled_stored(self, v):
        image, mask = read_stored(self, v)
        return torch.where(mask[..., None], image, torch.nan), mask

    monkeypatch.setattr(model, "photograph_and_mask", spoiled)
    monkeypatch.setattr(StoredPhotographs, "photograph", spoiled_stored)


def narrow_weights(folder, system):
    """Path of narrow random weights."""
    parts = initializer().model.state_dict()
    if system == "resplat":
        parts = parts | rule().network.state_dict()
    card = WeightsCard("resplat", {}, OPTIONS | {"context_views": 3, "fit": "enlarge"})
    weights = Weights({f"encoder.{name}": tensor for name, tensor in parts.items()}, card)
    if system == "diff3r":
        weights = UncertaintyHead(NARROW.width, torch.tensor([0.5, 2.0, 0.1, 1.0, 4.0])).to_weights(weights)
    save_weights(folder / system, weights)
    return str(folder / system)


@pytest.mark.parametrize("method", ["learn2splat", "resplat", "diff3r"])
def test_nan_under_a_mask_reaches_nothing(method, banded_capture, tmp_path, nan_under_masks, caplog, capsys):
    config = method_config(banded_capture, tmp_path / "out", method, steps=2)
    config.pipeline.model.uncertainty = "laplace"
    if method == "resplat":
        config.optimizers["gaussians"]["optimizer"].weights = narrow_weights(tmp_path, "resplat")
    elif method == "diff3r":
        config.pipeline.initialization.weights = narrow_weights(tmp_path, "diff3r")
    trainer = train(config)
    pipeline = trainer.pipeline
    gaussians, start = pipeline.model.gaussians, pipeline._start.gaussians
    assert not gaussians.count_non_finite() and not gaussians.features_dc.equal(start.features_dc)
    assert "refused" not in caplog.text
    for name in ("precision", "curvature"):
        held = getattr(pipeline.model, name)
        assert (held is not None) == (method == "diff3r") and (held is None or held.isfinite().all())
    if method != "learn2splat":
        # Images are enlarged to 64 x 64, where the band has 12 to 14 of 64 columns and cells have 4.
        masked = pipeline._start.context.masks.eq(0).any(dim=1).any(dim=1).sum()
        assert masked > 0 and len(start) == 3 * 256 - 16 * 3 * masked
        assert f"Masks: {768 - len(start)} of 768 predicted Gaussians are left out." in printed(capsys)
    quality = pipeline.get_average_eval_image_metrics(get_std=True)
    assert {"psnr", "ssim", "psnr_std"} <= quality.keys()
    json.dumps(quality, allow_nan=False)


def test_quality_is_that_of_the_pixels_that_count(banded_capture, tmp_path, capsys):
    pipeline = train(method_config(banded_capture, tmp_path / "out", steps=1)).pipeline
    cached, evaluate = pipeline.datamanager.cached_eval, pipeline.get_average_eval_image_metrics
    before = evaluate(get_std=True)
    cached[0]["image"] = torch.where(cached[0]["mask"], cached[0]["image"].float() / 255, torch.nan)
    after = evaluate(get_std=True)
    for name in ("psnr", "ssim", "psnr_std", "ssim_std"):
        assert after[name] == pytest.approx(before[name], abs=1e-6), name
    # A view without pixels that count is left out; then there is one, which has no deviation.
    cached[1]["mask"] = torch.zeros_like(cached[1]["mask"])
    alone = evaluate(get_std=True)
    assert alone["psnr"] != before["psnr"] and "psnr_std" not in alone
    json.dumps(alone, allow_nan=False)
    assert "PSNR: in 1 of 2 views every pixel is masked, so these views are left out" in printed(capsys)
    cached[0]["mask"] = torch.zeros_like(cached[0]["mask"])
    nothing = evaluate(get_std=True)
    assert not {"psnr", "ssim", "psnr_std"} & nothing.keys()
    json.dumps(nothing, allow_nan=False)
    assert "SSIM: in 2 of 2 views" in printed(capsys)


def test_training_quality_ignores_masked_pixels(banded_capture, tmp_path):
    model = train(method_config(banded_capture, tmp_path / "out", steps=1)).pipeline.model
    views = context(3)
    masks = torch.ones(3, 64, 64, 1)
    masks[0, 5:20], masks[2] = 0, 0
    rendered = (views.images + 0.1).requires_grad_()
    spoiled = Views(views.cameras, torch.where(masks > 0.5, views.images, torch.nan), masks)
    losses, metrics = model.training_loss([RenderedViews(spoiled, rendered)])
    assert metrics["psnr"].item() == pytest.approx(20, abs=1e-3)
    (gradient,) = torch.autograd.grad(sum(losses.values()), rendered)
    assert gradient.isfinite().all() and not gradient[2].any() and not gradient[0, 5:20].any()
    _, metrics = model.training_loss([RenderedViews(Views(views.cameras, views.images, 0 * masks), rendered)])
    assert "psnr" not in metrics


def test_a_benchmark_measures_what_counts():
    rendered, photograph, mask = torch.rand(24, 30, 3), torch.rand(24, 30, 3), torch.ones(24, 30, 1)
    mask[:, :8] = 0
    spoiled, nothing = torch.where(mask > 0.5, photograph, torch.nan), torch.zeros(24, 30, 1)
    views = HeldOutViews(SimpleNamespace(model=SimpleNamespace(config=None)))
    views.lpips._unavailable = True
    views._views = lambda: [(rendered, spoiled, mask), (rendered, spoiled, nothing)]
    measured = views.measure(3)
    assert measured["psnr"] == psnr(rendered, photograph, mask) and measured["lpips"] is None
    assert measured["ssim"] == ssim(rendered, photograph, mask) and measured["step"] == 3
    views._views = lambda: [(rendered, spoiled, nothing)]
    with pytest.raises(CaptureError, match="Every pixel of the held-out views is masked"):
        views.measure(3)
