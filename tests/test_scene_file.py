"""Scene files: what is written is read, and what is no scene is refused in one sentence."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from l2o_splat.gaussians import FIELDS
from l2o_splat.scene import SceneStart
from l2o_splat.scene_file import SceneFileError, read_scene, write_scene
from tests.rendering.scenes import random_scene


@pytest.fixture
def start():
    gaussians, _ = random_scene(n=7)
    return SceneStart(gaussians.to(torch.float64), torch.rand(7, 5))


def test_every_number_is_read_as_it_was_written(start, tmp_path):
    write_scene(tmp_path / "scene.safetensors", start)
    read = read_scene(tmp_path / "scene.safetensors")
    for name, tensor in start.gaussians.items():
        assert torch.equal(getattr(read.gaussians, name), tensor) and tensor.dtype == torch.float64
    assert torch.equal(read.features, start.features)
    assert load_file(tmp_path / "scene.safetensors").keys() == {*FIELDS, "features"}
    write_scene(tmp_path / "plain.safetensors", start.gaussians)
    assert read_scene(tmp_path / "plain.safetensors").features is None


def tensors(start):
    return {name: tensor.clone() for name, tensor in start.gaussians.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("quats"), r"lacks \['quats'\] and has \[\] besides"),
        (lambda t: t.update(colors=torch.zeros(7, 3)), r"has \['colors'\] besides"),
        (lambda t: t.update(scales=torch.zeros(6, 3)), r"scales has shape \(6, 3\); \(7, 3\) is needed"),
        (lambda t: t.update(opacities=torch.zeros(7, 1, dtype=torch.uint8)), "opacities hold no floating-point"),
        (lambda t: t.update(features=torch.zeros(6, 5)), r"features have shape \(6, 5\), and a row for each of its 7"),
        (lambda t: t["means"].__setitem__(0, torch.inf), r"NaN or infinite numbers \(3 in means\)"),
        (lambda t: t.update(features=torch.full((7, 2), torch.nan)), r"\(14 in features\)"),
    ],
)
def test_what_is_no_scene_is_refused(start, tmp_path, change, message):
    content = tensors(start)
    change(content)
    save_file(content, tmp_path / "scene.safetensors")
    with pytest.raises(SceneFileError, match=message):
        read_scene(tmp_path / "scene.safetensors")


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")
    with pytest.raises(SceneFileError, match=r"damaged.safetensors cannot be read as a safetensors file"):
        read_scene(tmp_path / "damaged.safetensors")
    with pytest.raises(OSError, match="nowhere"):
        read_scene(tmp_path / "nowhere.safetensors")


def test_nothing_is_written_that_could_not_be_read(start, tmp_path):
    start.gaussians.means[2, 1] = torch.nan
    with pytest.raises(SceneFileError, match=r"not written: the scene holds NaN or infinite numbers \(1 in means\)"):
        write_scene(tmp_path / "scene.safetensors", start)
    assert list(tmp_path.iterdir()) == []
