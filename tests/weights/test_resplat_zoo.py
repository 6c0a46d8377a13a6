"""Stand-ins for the released ReSplat files, with their names, containers, prefixes and extra keys."""

import json
import subprocess
import sys

import huggingface_hub
import pytest
import torch

from l2o_splat.commands.weights import convert
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.nets.resplat.depth import DepthNetwork
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.weights import Weights, WeightsError, load_weights
from l2o_splat.weights.catalogue import CATALOGUE
from l2o_splat.weights.resplat import load_depth
from l2o_splat.weights.resplat_zoo import ZOO
from tests.resplat_networks import NARROW, NARROW_FINE, initializer, rule

SMALL = "resplat-small-dl3dv-256x448-view8-548993fe.pth"
FULL_SIZE = "resplat-base-dl3dv-540x960-view16-a72dc6d0.pth"
LARGE = "resplat-large-dl3dv-256x448-view8-62f1703a.pth"


def whole(shape=NARROW, update=True):
    """Tensors of a whole model under the released names."""
    tensors = initializer(shape).model.state_dict()
    if update:
        tensors |= rule(shape).network.state_dict()
    return {f"encoder.{name}": tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def model():
    return whole()


def save(content, folder, name="model.pth"):
    torch.save(content, folder / name)
    return folder / name


def assert_holds(weights, tensors):
    for module in (ReSplatInitializer.from_weights(weights).model, ReSplatRule.from_weights(weights).network):
        for name, tensor in module.state_dict().items():
            assert tensor.equal(tensors[f"encoder.{name}"]), name


@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_whole_models(model, container, tmp_path):
    extra = {
        "encoder.update_feature.layer3.0.conv1.weight": torch.ones(2),
        "encoder.update_feature.layer4.1.bn2.num_batches_tracked": torch.tensor(7),
        "encoder.update_feature.fc.bias": torch.ones(3),
        "encoder.depth_predictor.pretrained.mask_token": torch.ones(1, 384),
    }
    old = {name.replace("update_error_attn", "render_error_mv_attn"): tensor for name, tensor in model.items()}
    content = old | extra
    weights = load_weights(save({container: content, "step": 3} if container else content, tmp_path, SMALL), "resplat")
    assert_holds(weights, model)
    assert weights.card.training["dropped_tensors"] == sorted(extra)
    assert weights.card.architecture["tensors"] == len(model)
    assert weights.card.raster_settings == RasterSettings("antialiased", 0.1, image_rules="1.5")


def test_names_tell_what_tensors_do_not(model, tmp_path):
    config = ReSplatInitializer.from_weights(load_weights(save(model, tmp_path, FULL_SIZE))).config
    assert config == ReSplatConfig(
        scale_max=3.0, half_resolution_depth=True, longer_side=960, fit="enlarge", iterations=2, context_views=16
    )
    weights = load_weights(save(model, tmp_path, "my-own.pth"))
    assert weights.card.behaviour == {} and weights.card.licence == "unknown"
    fine = load_weights(save(whole(NARROW_FINE), tmp_path, "my-own.pth"))
    assert ReSplatRule.from_weights(fine).config == ReSplatConfig(
        far=100.0, longer_side=256, iterations=2, context_views=2
    )
    assert "RE10K" in fine.card.training["behaviour_of"]


def test_conversion_keeps_everything(model, tmp_path):
    path = save({name: tensor.half() for name, tensor in model.items()}, tmp_path, FULL_SIZE)
    card = convert(path, tmp_path / "converted").card
    again = load_weights(tmp_path / "converted.safetensors", "resplat")
    assert again.card == card and card.behaviour["scale_max"] == 3.0
    assert_holds(again, {name: tensor.half().to(tensor.dtype) for name, tensor in model.items()})
    assert ReSplatRule.from_weights(again).fingerprint == ReSplatRule.from_weights(load_weights(path)).fingerprint


def test_models_without_an_update(tmp_path):
    weights = load_weights(save(whole(update=False), tmp_path, LARGE))
    config = ReSplatInitializer.from_weights(weights).config
    assert config.world == "raw" and config.iterations == 0
    with pytest.raises(ValueError, match="have no update network, only the initial model"):
        ReSplatRule.from_weights(weights)


@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_depth_networks_alone(container, tmp_path):
    torch.manual_seed(5)
    tensors = DepthNetwork(NARROW).state_dict()
    weights = load_weights(save({container: tensors} if container else tensors, tmp_path), "resplat")
    with pytest.raises(ValueError, match="of the depth network alone"):
        ReSplatInitializer.from_weights(weights)
    same, fine = DepthNetwork(NARROW), DepthNetwork(NARROW_FINE)
    assert load_depth(same, weights) == []
    assert all(tensor.equal(tensors[name]) for name, tensor in same.state_dict().items())
    skipped = load_depth(fine, weights)
    assert skipped == [f"upsampler.concat_projects.{i}.weight" for i in range(3)]
    assert fine.regressor_residual[0].weight.equal(tensors["regressor_residual.0.weight"])
    narrower = {name: tensor for name, tensor in weights.tensors.items() if "depth_head.0.2.bias" not in name}
    with pytest.raises(ValueError, match=r"'depth_head.0.2.bias' from .* has shape none"):
        load_depth(same, Weights(narrower, weights.card))
    assert load_depth(same, Weights(whole(), weights.card)) == []


def test_tensors_that_do_not_fit_are_named(model, tmp_path):
    weights = load_weights(save(model, tmp_path))
    with pytest.raises(ValueError, match=r"no options \['speed'\]"):
        ReSplatRule.from_weights(weights, speed=1)
    with pytest.raises(ValueError, match="update_neighbours"):
        ReSplatInitializer.from_weights(weights, speed=1)
    wrong = dict(model) | {"encoder.update_head.4.bias": torch.zeros(3)}
    ReSplatInitializer.from_weights(Weights(wrong, weights.card))
    with pytest.raises(ValueError, match=r"'update_head.4.bias' from .* has shape \(3,\)"):
        ReSplatRule.from_weights(Weights(wrong, weights.card))
    del wrong["encoder.pt.mv_blocks.0.conv.bias"]
    with pytest.raises(ValueError, match=r"'pt.mv_blocks.0.conv.bias' from .* has shape none"):
        ReSplatInitializer.from_weights(Weights(wrong, weights.card))
    wrong["encoder.proj.bias"] = torch.full_like(model["encoder.proj.bias"], torch.nan)
    with pytest.raises(WeightsError, match=r"'encoder.proj.bias' .* holds NaN"):
        load_weights(save(wrong, tmp_path))
    learned = load_weights("random:0")
    with pytest.raises(WeightsError, match="are of learn2splat; resplat weights are needed"):
        ReSplatInitializer.from_weights(learned)


def test_names_of_the_zoo_are_fetched(model, tmp_path, monkeypatch):
    folder = tmp_path / "snapshots" / "abc123"
    folder.mkdir(parents=True)
    save(model, folder, FULL_SIZE)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file, revision=None: str(folder / file))
    weights = load_weights("resplat-base-dl3dv-540x960-view16", "resplat")
    assert weights.card.source == f"hf://haofeixu/resplat/{FULL_SIZE}@abc123"
    assert weights.card.behaviour["half_resolution_depth"] and "2510.08575" in weights.card.licence
    assert weights.card.raster["eps2d"] == 0.1


def test_every_entry_of_the_zoo_is_valid():
    assert len({entry.name for entry in ZOO}) == len(ZOO) == 11
    for entry in ZOO:
        ReSplatConfig(**entry.behaviour)
        RasterSettings(**CATALOGUE[entry.name].raster)


MEASURE = """
import json, resource, sys
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.weights import load_weights
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
weights = load_weights(sys.argv[1], "resplat")
models = ReSplatInitializer.from_weights(weights), ReSplatRule.from_weights(weights)
print(json.dumps(peak() - before))
"""


@pytest.mark.parametrize("kind", ["original", "converted"])
def test_loading_needs_little_more_memory_than_the_file(model, kind, tmp_path):
    path = save(model, tmp_path, SMALL)
    if kind == "converted":
        convert(path, tmp_path / "converted")
        path = tmp_path / "converted.safetensors"
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) < 1.2 * path.stat().st_size
