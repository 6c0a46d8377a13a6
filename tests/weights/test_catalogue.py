"""References to the hub and to the catalogue, without a network; the subcommands."""

import shutil

import huggingface_hub
import pytest
import torch
import tyro
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from l2o_splat.commands.weights import WeightsCommand
from l2o_splat.weights import WeightsError, load_weights
from l2o_splat.weights.catalogue import CATALOGUE, HubFile
from tests.weights.test_original import CONFIG, lightning, network, save


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that holds one repository in a folder; returns the folder."""
    repository = tmp_path / "hub" / "snapshots" / "abc123"
    repository.mkdir(parents=True)
    asked = []

    def download(repo_id, filename, revision=None):
        asked.append((repo_id, filename, revision))
        if not (repository / filename).exists():
            raise EntryNotFoundError("404")
        return str(repository / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return repository, asked


def test_catalogue_name_is_fetched_with_its_settings(hub, tmp_path):
    repository, asked = hub
    tensors = network().state_dict()
    (repository / "joint").mkdir()
    shutil.move(save(lightning(tensors), tmp_path, "epoch_7-step_150000.ckpt").parent, repository / "joint")
    weights = load_weights("learn2splat")
    assert torch.equal(weights.tensors["delta_head.2.bias"], tensors["delta_head.2.bias"])
    assert weights.card.licence.startswith("CC-BY-4.0; attribution")
    assert weights.card.source == CATALOGUE["learn2splat"].location + "@abc123"
    assert weights.card.raster == {"rasterize_mode": "classic", "eps2d": 1e-4}
    (repository / "joint" / "config.yaml").write_text(CONFIG.replace("classic", "antialiased"))
    assert load_weights("learn2splat").card.raster["rasterize_mode"] == "antialiased"
    assert ("autonomousvision/learn2splat", "joint/config.yaml", None) in asked


def test_own_format_on_the_hub(hub, capsys, tmp_path):
    repository, asked = hub
    tyro.cli(WeightsCommand, args=["convert", "random:1", str(repository / "mine")]).run()
    weights = load_weights("hf://me/rules/mine.safetensors@v1")
    assert weights.card.source == "random:1" and ("me/rules", "mine.json", "v1") in asked
    (repository / "mine.json").unlink()
    with pytest.raises(WeightsError, match=r"has no mine\.json beside it"):
        load_weights("hf://me/rules/mine.safetensors@v1")


def test_no_connection_and_no_such_file_say_so(hub, monkeypatch):
    with pytest.raises(WeightsError, match=r"The hub has no such file as hf://me/rules/absent.ckpt"):
        load_weights("hf://me/rules/absent.ckpt")

    def offline(*_, **__):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(WeightsError, match="is not in the local cache and the hub cannot be reached"):
        load_weights("learn2splat")

    def refused(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    with pytest.raises(WeightsError, match=r"could not be fetched.*no route to host"):
        load_weights("learn2splat")


def test_the_former_name_of_the_gain_weights_is_accepted(capsys):
    assert load_weights("learn2splat-mini").card == load_weights("gain-mini").card
    tyro.cli(WeightsCommand, args=["show", "learn2splat-mini"]).run()
    assert '"system": "gain"' in capsys.readouterr().out


def test_hub_locations():
    assert HubFile.parse("hf://a/b/c/d.ckpt@main") == HubFile("a/b", "c/d.ckpt", "main")
    assert HubFile.parse("hf://a/b/c.ckpt").revision is None
    for location in ("hf://a/b", "hf://a//b", "https://a/b/c"):
        with pytest.raises(WeightsError, match="is not the location of a file on the hub"):
            HubFile.parse(location)


def test_subcommands(hub, tmp_path, capsys):
    repository, _ = hub
    tyro.cli(WeightsCommand, args=["list"]).run()
    listed = capsys.readouterr().out
    assert "gain-mini (gain): comes with this package" in listed and "learn2splat (learn2splat): " in listed
    assert "learn2splat-mini" not in listed
    tyro.cli(WeightsCommand, args=["convert", "random:1", str(repository / "mine")]).run()
    tyro.cli(WeightsCommand, args=["show", str(repository / "mine")]).run()
    assert '"licence": "none"' in capsys.readouterr().out
    tyro.cli(WeightsCommand, args=["fetch", "hf://me/rules/mine.safetensors"]).run()
    assert "2682853 parameters" in capsys.readouterr().out
