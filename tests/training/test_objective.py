"""The perceptual term of an objective: which network it takes, what it adds, and what is said when there is none."""

import logging
from dataclasses import asdict
from functools import partial

import pytest
import torch

from l2o_splat.losses import photometric_loss
from l2o_splat.nets.lpips_network import LpipsNetwork
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.objective import Objective
from l2o_splat.weights import WeightsError, imported
from l2o_splat.weights.format import Weights, WeightsCard, save_weights
from tests.vgg import GAINS, MEAN, layers, write_vgg19

PapersLoss = partial(Objective, ssim_weight=0.0, perceptual_weight=0.5, relative=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_vgg19(tmp_path_factory.mktemp("vgg") / "imagenet-vgg-verydeep-19.mat", layers())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Nothing is imported."""
    monkeypatch.setenv("L2O_SPLAT_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def substitute(cache):
    """A random VGG-16 passes for the imported one."""
    torch.manual_seed(0)
    tensors = LpipsNetwork("vgg16").state_dict()
    save_weights(imported.imported_folder() / "lpips-vgg16", Weights(tensors, WeightsCard("lpips", {})))


def pair(height=32, width=32, seed=0):
    return torch.rand(2, 2, height, width, 3, generator=torch.Generator().manual_seed(seed)).unbind()


def test_the_loss_of_the_papers_is_l1_and_half_of_the_term(file):
    """With filters that pass colours on, every tap holds averages of what exceeds the mean colour."""
    objective, (rendered, images) = PapersLoss(perceptual="vgg19", perceptual_file=file), pair()
    weights, pixels = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5), (rendered - images).abs().mean(dim=(1, 2, 3))
    channels, ends = (64, 128, 256, 512, 512), (2, 4, 6, 10, 14)
    values = [(255 * batch - torch.tensor(MEAN)).relu().movedim(-1, 1) for batch in (rendered, images)]
    expected = pixels.clone()
    for block in range(5):
        gain = float(torch.tensor(GAINS[: ends[block]]).prod())
        difference = (values[0] - values[1]).abs().sum(dim=1).mean(dim=(1, 2)) / channels[block]
        expected += weights[block] * gain * difference / 255
        values = [torch.nn.functional.avg_pool2d(batch, 2) for batch in values]
    torch.testing.assert_close(objective.error(rendered, images), (pixels + 0.5 * expected).sum())
    assert objective.perceptual_used.startswith("vgg19 (SHA-256 ")


def test_the_default_objective_is_the_inner_loss_alone(cache):
    rendered, images = pair()
    objective = Objective()
    assert torch.equal(objective.error(rendered, images), photometric_loss(rendered, images, None, 0.2))
    assert objective.perceptual_used is None


def test_the_best_network_that_can_be_had_is_taken_and_named(file, substitute, caplog):
    assert PapersLoss(perceptual="vgg", perceptual_file=file).perceptual_used.startswith("vgg19")
    assert PapersLoss(perceptual="vgg").perceptual_used == "vgg16-substitute"
    assert PapersLoss(perceptual="vgg16-substitute").perceptual_used == "vgg16-substitute"
    assert not caplog.records


def test_without_any_network_vgg_and_lpips_are_left_out_with_one_line(cache, monkeypatch, caplog):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", _offline)
    rendered, images = pair()
    for kind, line in (("vgg", "The perceptual term is left out"), ("lpips", "LPIPS is left out")):
        objective = PapersLoss(perceptual=kind)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                plain = photometric_loss(rendered, images, None, 0.0)
                assert torch.equal(objective.error(rendered, images), plain)
        assert objective.perceptual_used is None
        (record,) = caplog.records
        assert record.message.startswith(line) and "l2o weights import" in record.message
        caplog.clear()


def _offline(*_, **__):
    raise OSError("no network")


def test_a_network_asked_for_by_its_name_is_not_left_out(cache, tmp_path):
    with pytest.raises(WeightsError, match="lpips-vgg16 was not imported yet.*l2o weights import"):
        _ = PapersLoss(perceptual="vgg16-substitute").perceptual_used
    with pytest.raises(TrainingError, match="perceptual_file names none; give it imagenet-vgg-verydeep-19.mat"):
        PapersLoss(perceptual="vgg19")
    with pytest.raises(TrainingError, match="There is no file .*nowhere.mat"):
        PapersLoss(perceptual="vgg19", perceptual_file=tmp_path / "nowhere.mat")
    with pytest.raises(TrainingError, match="perceptual is lpips, which does not read it"):
        PapersLoss(perceptual_file=tmp_path)
    with pytest.raises(TrainingError, match="perceptual_scale is 2"):
        PapersLoss(perceptual_scale=2)


def test_half_the_size_compares_resized_images_and_masks_still_hold(substitute):
    (rendered, images), masks = pair(height=40, width=36), torch.ones(2, 40, 36, 1)
    masks[:, 8:20, 4:17] = 0
    half = PapersLoss(perceptual="vgg16-substitute", perceptual_scale=0.5)
    whole = PapersLoss(perceptual="vgg16-substitute")

    def resized(batch):
        planes = torch.nn.functional.interpolate(
            batch.movedim(-1, 1), scale_factor=0.5, mode="bilinear", align_corners=True
        )
        return planes.movedim(1, -1)

    term = half.perceptual_term(rendered, images, None)
    torch.testing.assert_close(term, whole.perceptual_term(resized(rendered), resized(images), None))
    assert not torch.allclose(term, whole.perceptual_term(rendered, images, None), rtol=1e-3)
    changed = torch.where(masks > 0.5, rendered, float("nan"))
    assert torch.equal(half.error(rendered, images, masks), half.error(changed, images, masks))


def test_the_term_moves_images_towards_the_photographs(substitute):
    rendered, images = pair()
    objective, leaf = PapersLoss(perceptual="vgg16-substitute"), rendered.clone().requires_grad_()
    error = objective.error(leaf, images)
    error.backward()
    with torch.no_grad():
        assert objective.error(leaf - 1e-2 * leaf.grad, images) < error


def test_its_options_hold_no_network(substitute):
    objective = PapersLoss(perceptual="vgg")
    assert objective.perceptual_used is not None
    assert asdict(objective).keys() == {
        "ssim_weight",
        "perceptual_weight",
        "over_views",
        "relative",
        "perceptual",
        "perceptual_file",
        "perceptual_scale",
    }
