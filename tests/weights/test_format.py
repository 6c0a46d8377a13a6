"""Weights on disk: round trip, and one sentence for everything that can be wrong with the files."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest
import torch

from l2o_splat.nets.gain_network import GainNetwork
from l2o_splat.nets.gain_shape import GainNetworkShape
from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.optim.gain import GainConfig, GainRule
from l2o_splat.optim.learn2splat import Learn2SplatConfig, Learn2SplatRule
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.weights import Weights, WeightsCard, WeightsError, load_weights, save_weights

SMALL = Learn2SplatNetworkShape(
    latent_width=24,
    attention_width=8,
    hidden_width=40,
    num_blocks=2,
    scale_hidden_width=11,
    head_hidden_width=20,
    feature_width=None,
)


def small_rule(**options):
    torch.manual_seed(0)
    return Learn2SplatRule(Learn2SplatNetwork(SMALL), Learn2SplatConfig(**options))


@pytest.fixture
def saved(tmp_path):
    rule = small_rule(active_only=False, knn_refresh_interval=5, cap_sh_degree=1)
    card = WeightsCard(
        "learn2splat",
        {},
        raster={"rasterize_mode": "antialiased", "eps2d": 0.2},
        scene_frame="cameras",
        licence="Apache-2.0",
        source="test",
        training={"steps": 3},
    )
    save_weights(tmp_path / "small", rule.to_weights(card))
    return tmp_path / "small.safetensors", rule


def test_round_trip_gives_the_same_rule(saved):
    path, rule = saved
    for reference in (path, path.with_suffix(".json"), path.with_suffix(""), path.parent, str(path)):
        weights = load_weights(reference, "learn2splat")
        assert Learn2SplatRule.from_weights(weights).fingerprint == rule.fingerprint
    card = weights.card
    assert card.architecture == asdict(SMALL) and card.training == {"steps": 3} and card.scene_frame == "cameras"
    assert card.raster_settings == RasterSettings("antialiased", 0.2)
    assert not list(path.parent.glob(".*")), "temporary files are left"
    changed = Learn2SplatRule.from_weights(weights, cap_sh_degree=None)
    assert changed.config == replace(rule.config, cap_sh_degree=None)


def test_loaded_weights_can_be_trained(saved):
    network = Learn2SplatRule.from_weights(load_weights(saved[0])).network
    before = network.delta_head[0].weight.detach().clone()
    network.delta_head[0].weight.sum().backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    torch.testing.assert_close(network.delta_head[0].weight.detach(), before - 1)


def test_a_failed_save_leaves_the_old_weights(saved, monkeypatch):
    path, rule = saved
    monkeypatch.setattr("l2o_splat.weights.format.save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_weights(path, rule.to_weights(load_weights(path).card))
    assert {file.name for file in path.parent.iterdir()} == {"small.safetensors", "small.json"}
    load_weights(path)


def edit(path, **changes):
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in (card | changes).items() if v != "absent"}))


def test_damaged_files_are_refused(saved, tmp_path):
    path, _ = saved
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(WeightsError, match=r"small\.json says .* truncated or another one"):
        load_weights(path)
    garbage = b"no tensors"
    path.write_bytes(garbage)
    edit(path, sha256=hashlib.sha256(garbage).hexdigest())
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        load_weights(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(WeightsError, match="not readable as JSON"):
        load_weights(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match=r"has no small\.json beside it"):
        load_weights(path)
    path.unlink()
    with pytest.raises(WeightsError, match=r"folder .* holds 0 weights files"):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format version 99; this release reads up to 1"),
        ({"licence": "absent"}, r"missing or unknown fields \['licence'\]"),
        ({"colour": "red"}, r"missing or unknown fields \['colour'\]"),
        ({"system": "diffusion"}, "names system 'diffusion'"),
        ({"system": "resplat"}, "are of resplat; learn2splat weights are needed"),
    ],
)
def test_cards_that_do_not_fit_are_refused(saved, changes, message):
    edit(saved[0], **changes)
    with pytest.raises(WeightsError, match=message):
        load_weights(saved[0], "learn2splat")


def test_tensors_of_another_architecture_are_refused(saved):
    weights = load_weights(saved[0])
    tensors = dict(weights.tensors)
    tensors["delta_head.0.weight"] = torch.zeros(20, 25)
    with pytest.raises(ValueError, match=r"'delta_head.0.weight' has shape \(20, 25\)"):
        Learn2SplatRule.from_weights(Weights(tensors, weights.card))
    del tensors["delta_head.0.weight"]
    with pytest.raises(ValueError, match=r"'delta_head.0.weight' has shape none"):
        Learn2SplatRule.from_weights(Weights(tensors, weights.card))
    with pytest.raises(ValueError, match=r"no tensor 'delta_head.2.bias' among the 0"):
        Learn2SplatRule.from_weights(Weights({}, weights.card))
    with pytest.raises(ValueError, match=r"unknown options \['speed'\]"):
        Learn2SplatRule.from_weights(replace(weights, card=replace(weights.card, behaviour={"speed": 1})))


def test_non_finite_weights_are_refused(saved):
    path, rule = saved
    with torch.no_grad():
        rule.network.delta_head[0].bias[3] = torch.nan
    save_weights(path, rule.to_weights(load_weights(path).card))
    with pytest.raises(WeightsError, match=r"'delta_head.0.bias' .* holds NaN"):
        load_weights(path)


GAIN_BEHAVIOUR = {
    "active_only": False,
    "cap_sh_degree": None,
    "knn_refresh_interval": 50,
    "latent_init": "zeros",
    "log_scale_range": [-6.0, 4.0],
    "look_growth": 10.0,
    "neighbours": 5,
    "opacity_logit_limit": 6.0,
    "precision": "float32",
    "seed": 3,
    "sh_limit": 4.0,
    "step_decay": [60.0, 0.8],
    "trust_decay": 30.0,
    "units": "own_scale",
    "use_features": False,
}
"""As weights of a gain network had it while they were of the system learn2splat."""
GAIN_SHAPE = GainNetworkShape(latent_width=8, attention_width=4, hidden_width=12, num_blocks=1)


def save_former_gain_weights(path, behaviour):
    network = GainNetwork(GAIN_SHAPE).reset_to_adam(0, (1, 2, 3, 4, 5, 6))
    card = WeightsCard("learn2splat", {}, behaviour=behaviour, source="l2o meta-train")
    save_weights(path, Weights(network.state_dict(), card))
    return path


def test_gain_weights_of_the_former_system_are_migrated(tmp_path):
    weights = load_weights(save_former_gain_weights(tmp_path / "former", GAIN_BEHAVIOUR), "gain")
    assert weights.card.behaviour == {
        "knn_refresh_interval": 50,
        "log_scale_range": [-6.0, 4.0],
        "neighbours": 5,
        "opacity_logit_limit": 6.0,
        "precision": "float32",
        "query_growth": 10.0,
        "sh_limit": 4.0,
        "step_decay": [60.0, 0.8],
        "trust_decay": 30.0,
    }
    assert weights.card.source == "l2o meta-train"
    rule = GainRule.from_weights(weights)
    assert rule.config == GainConfig(**weights.card.behaviour)
    # What is saved now needs no migration.
    save_weights(tmp_path / "again", rule.to_weights(weights.card))
    content = json.loads((tmp_path / "again.json").read_text())
    assert content["system"] == "gain" and content["behaviour"] == weights.card.behaviour | {
        "reference_steps": GainConfig().reference_steps
    }
    again = GainRule.from_weights(load_weights(tmp_path / "again"))
    assert again.fingerprint == rule.fingerprint


def test_options_that_former_gain_weights_do_not_name_keep_their_former_meaning(tmp_path):
    later = ("step_decay", "look_growth", "trust_decay", "sh_limit")
    behaviour = {name: value for name, value in GAIN_BEHAVIOUR.items() if name not in later}
    found = load_weights(save_former_gain_weights(tmp_path / "former", behaviour)).card.behaviour
    assert found["step_decay"] is found["query_growth"] is found["trust_decay"] is None and found["sh_limit"] == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"active_only": True, "look_growth": None}, r"saved with {'active_only': True}, and only {'active_only': Fal"),
        ({"latent_init": "random"}, r"saved with {'latent_init': 'random'}, and only {'latent_init': 'zeros'} is"),
        ({"use_features": True}, "saved with {'use_features': True}"),
        ({"units": "training"}, "saved with {'units': 'training'}"),
        ({"cap_sh_degree": 1}, "saved with {'cap_sh_degree': 1}"),
    ],
)
def test_former_gain_weights_with_options_that_are_gone_are_refused(tmp_path, changes, message):
    path = save_former_gain_weights(tmp_path / "former", GAIN_BEHAVIOUR | changes)
    with pytest.raises(WeightsError, match=message):
        load_weights(path)


def test_weights_of_several_systems_can_be_accepted(saved):
    assert load_weights(saved[0], ("gain", "learn2splat")).card.system == "learn2splat"
    with pytest.raises(WeightsError, match="are of learn2splat; gain or resplat weights are needed here"):
        load_weights(saved[0], ("gain", "resplat"))


def test_random_weights_follow_adam():
    weights = load_weights("random:3")
    assert torch.equal(weights.tensors["delta_head.0.weight"], load_weights("random:3").tensors["delta_head.0.weight"])
    rule = Learn2SplatRule.from_weights(weights)
    direction, latent = torch.randn(50, 59), torch.randn(50, 256)
    with torch.no_grad():
        step, _ = rule.network(torch.randn(50, 59), latent, direction, torch.arange(50)[:, None].expand(50, 4))
    assert ((step * direction).sum(dim=1) < 0).all() and (step.sign() == -direction.sign()).float().mean() > 0.95
    with pytest.raises(WeightsError, match="does not name a seed"):
        load_weights("random:x")
