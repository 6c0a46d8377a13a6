"""Stand-ins for the original checkpoints, with their container, prefixes and extra keys."""

import random

import pytest
import torch

from l2o_splat.commands.weights import convert
from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.optim.learn2splat import Learn2SplatConfig, Learn2SplatRule
from l2o_splat.weights import WeightsError, load_weights
from tests.weights.test_format import SMALL

CONFIG = """
scene_trainer:
  scene_optimizer:
    name: l2s
    knn_samples: 6
    update_only_nonzero_grad: false
    knn_idx_update_every: 10
    pt_heads: 1
    tran_block_act: gelu
    init_state_type: random
    init_state_scale: 1.0
    freeze_sh: false
  decoder: {name: gsplat, rasterize_mode: classic, eps2d: 0.0001}
"""


def network(shape=SMALL, seed=0):
    torch.manual_seed(seed)
    return Learn2SplatNetwork(shape)


def lightning(tensors):
    """A Lightning checkpoint: the optimizer among other parts, and the trainer's own records."""
    state_dict = {f"scene_trainer.optimizer.{name}": tensor for name, tensor in tensors.items()}
    state_dict["scene_trainer.source_initializers.sparse.encoder.weight"] = torch.ones(3)
    return {
        "epoch": 7,
        "global_step": 150000,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": state_dict,
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(4)}}}],
        "lr_schedulers": [{"last_epoch": 3}],
        "callbacks": {},
        "loops": {},
    }


def save(content, folder, name="model.ckpt", **options):
    path = folder / "checkpoints" / name
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path, **options)
    return path


def assert_loaded(path, tensors, **options):
    weights = load_weights(path, "learn2splat", **options)
    assert set(weights.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(weights.tensors[name], tensor)
    return weights


def test_lightning_checkpoint(tmp_path):
    tensors = network().state_dict()
    weights = assert_loaded(save(lightning(tensors), tmp_path), tensors)
    assert weights.card.training["global_step"] == 150000 and weights.card.raster is None
    assert Learn2SplatRule.from_weights(weights).config == Learn2SplatConfig()


def test_settings_beside_the_checkpoint_are_used(tmp_path):
    path = save(lightning(network().state_dict()), tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    weights = load_weights(path)
    expected = Learn2SplatConfig(neighbours=6, active_only=False, knn_refresh_interval=10)
    assert Learn2SplatRule.from_weights(weights).config == expected
    assert weights.card.raster == {"rasterize_mode": "classic", "eps2d": 0.0001}
    card = convert(path, tmp_path / "converted", licence="CC-BY-4.0").card
    again = load_weights(tmp_path / "converted.safetensors")
    assert again.card == card and card.licence == "CC-BY-4.0" and card.training["config"]["name"] == "l2s"
    assert Learn2SplatRule.from_weights(again).fingerprint == Learn2SplatRule.from_weights(weights).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("pt_heads: 1", "pt_heads: 4"), r"'pt_heads': 4.*'pt_heads': 1"),
        (("freeze_sh: false", "freeze_sh: true"), "'freeze_sh': True"),
        (("init_state_scale: 1.0", "init_state_scale: 0.1"), "random x 0.1"),
        (("scene_optimizer", "optimizer"), "no readable scene_trainer.scene_optimizer"),
    ],
)
def test_settings_of_another_variant_are_refused(tmp_path, change, message):
    path = save(lightning(network().state_dict()), tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG.replace(*change))
    with pytest.raises(WeightsError, match=message):
        load_weights(path)


@pytest.mark.parametrize("container", ["bare", "state_dict", "optimizer prefix", "original naming", "old zip", "half"])
def test_other_forms_of_the_same_tensors(tmp_path, container):
    tensors = network().state_dict()
    content, options = dict(tensors), {}
    if container == "state_dict":
        content = {"state_dict": content}
    elif container == "optimizer prefix":
        content = {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
    elif container == "original naming":
        new = {"state_proj": "update_proj", "point_transformer": "update_module", "delta_head": "update_head"}
        content = {}
        for name, tensor in tensors.items():
            first, _, rest = name.partition(".")
            content[f"optimizer.{new.get(first, first)}.{rest}"] = tensor
    elif container == "old zip":
        options = {"_use_new_zipfile_serialization": False}
    elif container == "half":
        content = {name: tensor.half() for name, tensor in tensors.items()}
        tensors = {name: tensor.half().float() for name, tensor in tensors.items()}
    assert_loaded(save(content, tmp_path, **options), tensors)


def test_features_projection_is_kept(tmp_path):
    shape = Learn2SplatNetworkShape(
        latent_width=8, attention_width=4, hidden_width=9, num_blocks=1, scale_hidden_width=5, head_hidden_width=7
    )
    weights = load_weights(save(lightning(network(shape).state_dict()), tmp_path))
    assert Learn2SplatRule.from_weights(weights).network.shape.feature_width == 256


def test_extra_tensors_are_refused_or_named(tmp_path):
    tensors = network().state_dict()
    path = save(lightning(tensors | {"input_norm.weight": torch.ones(4)}), tmp_path)
    with pytest.raises(WeightsError, match=r"tensors that the update network lacks \(input_norm.weight\)"):
        load_weights(path)
    weights = assert_loaded(path, tensors, strict=False)
    assert weights.card.training["dropped_tensors"] == ["input_norm.weight"]


def test_missing_and_misshapen_tensors_are_refused(tmp_path):
    tensors = network().state_dict()
    del tensors["point_transformer.1.blocks.1.mlp.fc2.weight"]
    with pytest.raises(WeightsError, match=r"another architecture: .*blocks.1.mlp.fc2.weight' has shape none"):
        load_weights(save(lightning(tensors), tmp_path), strict=False)


class Payload:
    def __reduce__(self):
        return print, ("this must not run",)


def test_pickled_code_is_refused_and_not_run(tmp_path, capsys):
    for content in (lightning(network().state_dict()) | {"callbacks": Payload()}, Payload()):
        for new_format in (True, False):
            path = save(content, tmp_path, _use_new_zipfile_serialization=new_format)
            with pytest.raises(WeightsError, match=r"code in a pickle \(.*print\) is not run here"):
                load_weights(path)
    assert not capsys.readouterr().out


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = save(lightning(network().state_dict()), tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint", whole[:1000]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="truncated or not a torch file"):
            load_weights(path)
    for content, message in [
        ([1, 2], "holds a list without tensors"),
        ({"weights": "x"}, r"entries without a tensor \(\['weights'\]\)"),
        ({"layer.weight": torch.ones(2)}, "are of no known method; learn2splat or resplat weights are needed"),
    ]:
        with pytest.raises(WeightsError, match=message):
            load_weights(save(content, tmp_path))
    with pytest.raises(WeightsError, match="is neither a file or folder nor a known name"):
        load_weights(tmp_path / "absent.ckpt")


@pytest.mark.filterwarnings("ignore")  # torch says that damaged pickles look odd.
@pytest.mark.parametrize("zipped", [False, True])
def test_any_damage_is_a_weights_error(tmp_path, zipped):
    path = tmp_path / "damaged.ckpt"
    content = {"state_dict": {"layer.weight": torch.ones(3, 4), "layer.bias": torch.ones(2)}, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    whole, generator = path.read_bytes(), random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(generator.randrange(1, 20)):
            damaged[generator.randrange(min(len(damaged), 900))] = generator.randrange(256)
        path.write_bytes(damaged)
        # Where the damage does no harm, these are weights of no known method.
        with pytest.raises(WeightsError):
            load_weights(path)


@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_resplat_files_keep_their_names(tmp_path, container):
    tensors = {"encoder.depth.weight": torch.randn(3, 4), "encoder.update_head.0.bias": torch.randn(5)}
    path = save({container: tensors} if container else tensors, tmp_path, "resplat.pth")
    convert(path, tmp_path / "resplat")
    weights = load_weights(tmp_path / "resplat.safetensors", "resplat")
    assert weights.card.architecture == {"tensors": 2, "numbers": 17}
    assert all(torch.equal(weights.tensors[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(WeightsError, match="are of resplat; learn2splat weights are needed"):
        load_weights(path, "learn2splat")
