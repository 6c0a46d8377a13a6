"""What new networks start from: published backbones by name, files, or random numbers that are reported."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from l2o_splat.initializer_training.backbone import start_backbone
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.data import SceneData
from l2o_splat.initializer_training.options import InitializerTrainingOptions
from l2o_splat.nets.resplat.encoder import VisionTransformer
from l2o_splat.nets.resplat.update import ErrorFeatures
from l2o_splat.training.options import Schedule
from l2o_splat.weights import WeightsError, load_weights
from l2o_splat.weights.backbones import published_backbone
from tests.initializer_training.networks import BATCH, CONFIG, SHAPE, SOURCE


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """Tensors as DINOv2's file of a narrow transformer would hold them."""
    torch.manual_seed(3)
    tensors = {name: torch.randn_like(tensor) for name, tensor in VisionTransformer("mini").state_dict().items()}
    return tensors | {"mask_token": torch.zeros(1, 48)}


@pytest.fixture
def unreachable(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_image_transformer_starts_from_a_file(published, tmp_path, suffix):
    path = tmp_path / f"dinov2{suffix}"
    if suffix == ".pth":
        torch.save({"model": published}, path)
    else:
        save_file(published, path)
    transformer = VisionTransformer("mini")
    origin = start_backbone(transformer, "mini", str(path))
    assert origin.startswith(f"dinov2{suffix} (SHA-256 ")
    for name, tensor in transformer.state_dict().items():
        assert torch.equal(tensor, published[name]), name


def test_error_features_start_from_torchvisions_resnet(tmp_path):
    torch.manual_seed(4)
    features = ErrorFeatures()
    tensors = {
        name: torch.rand_like(tensor)
        for name, tensor in features.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    rest = {"layer3.0.conv1.weight": torch.ones(2), "layer4.1.bn2.bias": torch.ones(2), "fc.weight": torch.ones(2)}
    torch.save(tensors | rest, tmp_path / "resnet18.pth")
    start_backbone(features, None, str(tmp_path / "resnet18.pth"))
    assert torch.equal(features.state_dict()["bn1.running_var"], tensors["bn1.running_var"])
    assert torch.equal(features.state_dict()["layer2.1.conv2.weight"], tensors["layer2.1.conv2.weight"])


def test_files_that_hold_something_else_are_refused(published, tmp_path):
    transformer = VisionTransformer("mini")
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    other = {name: tensor for name, tensor in published.items() if name != "cls_token"}
    torch.save(other, tmp_path / "lacking.pth")
    torch.save(published | {"register_tokens": torch.ones(1, 4, 48)}, tmp_path / "registers.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    torch.save(published | {"norm.bias": torch.full((48,), torch.nan)}, tmp_path / "nan.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK")

    class Code:
        def __reduce__(self):
            return (print, ("this code was run",))

    (tmp_path / "code.pth").write_bytes(pickle.dumps({"cls_token": Code()}))
    messages = {
        "lacking.pth": "'cls_token' .* has shape none",
        "registers.pth": "'register_tokens' .* and none is needed; give DINOv2 without registers",
        "numbers.pth": "holds no tensors by name",
        "nan.pth": "NaN or infinite",
        "cut.pth": "cut.pth",
        "code.pth": "code.pth",
        "absent.pth": "There is no file",
    }
    for file, message in messages.items():
        with pytest.raises(WeightsError, match=message):
            start_backbone(transformer, "mini", str(tmp_path / file))
    assert all(torch.equal(tensor, before[name]) for name, tensor in transformer.state_dict().items())


def test_a_backbone_that_cannot_be_had_is_reported(unreachable, capsys):
    assert start_backbone(VisionTransformer("mini"), "vits", "auto") is None
    said = capsys.readouterr().out
    assert "image transformer (vits) starts at random: https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/" in said
    assert "no network" in said and said.count("\n") == 1
    assert start_backbone(ErrorFeatures(), None, "auto") is None
    assert "resnet18-f37072fd.pth is not in" in capsys.readouterr().out
    assert start_backbone(VisionTransformer("mini"), "mini", "none") is None
    assert "as --backbone-weights none says" in capsys.readouterr().out
    assert published_backbone("mini") is None


def test_the_record_says_what_a_training_started_from(published, tmp_path, capsys):
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    torch.save(published, tmp_path / "dinov2.pth")
    common = dict(
        training=InitializerTrainingOptions(iterations=1, learning_rate=1e-12, weight_decay=0.0, batch=BATCH),
        data=SceneData(captures=1, folder=tmp_path / "scenes", options=SOURCE.options, validation_captures=1),
        schedule=Schedule(evaluate_every=1, save_every=1, workers=0),
        shape=SHAPE,
        behaviour=CONFIG,
    )
    TrainInitializer(tmp_path / "initial", backbone_weights=str(tmp_path / "dinov2.pth"), **common).run()
    weights = load_weights(tmp_path / "initial" / "best.safetensors", "resplat")
    assert weights.card.training["origin"]["backbone"].startswith("dinov2.pth (SHA-256")
    name = "blocks.0.attn.qkv.weight"
    found = weights.tensors[f"encoder.depth_predictor.pretrained.{name}"].float()
    torch.testing.assert_close(found, published[name], atol=2e-3, rtol=2e-3)
    capsys.readouterr()
    TrainInitializer(
        tmp_path / "update",
        stage="update",
        weights=str(tmp_path / "initial" / "best.safetensors"),
        backbone_weights="none",
        train_error_features=False,
        start=("resplat",),
        steps=(1, 1),
        **common,
    ).run()
    said = capsys.readouterr().out
    assert "error features starts at random" in said and "trained with the update" in said
    assert load_weights(tmp_path / "update" / "best.safetensors").card.training["origin"] == {"backbone": "random"}


def test_missing_depth_weights_end_the_command_with_what_to_do(tmp_path):
    command = TrainInitializer.of_preset("paper-small-8v-256x448")
    command.out, command.depth_weights = tmp_path / "run", str(tmp_path / "depth.pth")
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    with pytest.raises(WeightsError, match=r"depth.pth.* neither a file .*--depth-weights None"):
        command.run()
    assert not (tmp_path / "run").exists()
