"""The l2o-demo dataparser: a capture out of nothing, made once and found again."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.dataparser import L2ODemoDataParserConfig, cached_capture, l2o_demo_dataparser
from l2o_splat.scenes.capture import read_capture


def tiny(**changes) -> L2ODemoDataParserConfig:
    return L2ODemoDataParserConfig(**{"num_views": 10, "width": 48, "height": 32, "num_points": 50, **changes})


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("L2O_SPLAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_eighth_image_is_held_out_and_points_come_along(cache):
    parser = tiny().setup()
    train, val = parser.get_dataparser_outputs("train"), parser.get_dataparser_outputs("val")
    assert [path.stem for path in val.image_filenames] == ["0000", "0008"]
    assert len(train.image_filenames) == len(train.cameras) == 8
    assert all(path.is_file() and cache in path.parents for path in train.image_filenames + val.image_filenames)
    assert train.metadata["points3D_xyz"].shape == train.metadata["points3D_rgb"].shape == (50, 3)
    # The subject of the orbit lies amid the points and before every camera.
    middle = train.metadata["points3D_xyz"].median(dim=0).values
    forward = -train.cameras.camera_to_worlds[:, :, 2]
    assert (((middle - train.cameras.camera_to_worlds[:, :, 3]) * forward).sum(dim=1) > 0).all()


def test_the_capture_is_generated_once(cache):
    first = cached_capture(tiny())
    written = (first / "transforms.json").stat().st_mtime_ns
    assert cached_capture(tiny()) == first
    assert (first / "transforms.json").stat().st_mtime_ns == written
    assert cached_capture(tiny(seed=1)) != first
    assert cached_capture(tiny(width=56)) != first
    assert len(list((cache / "captures").iterdir())) == 3


def test_a_saved_config_finds_the_same_capture(cache):
    config = yaml.load(yaml.dump(tiny(seed=3)), Loader=yaml.Loader)
    outputs = config.setup().get_dataparser_outputs("test")
    assert outputs.image_filenames[0].parents[1] == cached_capture(tiny(seed=3))


def test_parsers_that_start_together_agree(cache):
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(cached_capture, [tiny(seed=4)] * 2))
    assert folders[0] == folders[1]
    assert torch.isfinite(read_capture(folders[0]).points.xyz).all()
    assert [path.name for path in (cache / "captures").iterdir()] == [folders[0].name]


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("L2O_SPLAT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (tmp_path / "l2o_splat" / "captures") in cached_capture(tiny()).parents


def test_a_cache_that_cannot_be_written_is_named(cache):
    cache.write_text("a file in the way")
    with pytest.raises(CaptureError, match="L2O_SPLAT_CACHE"):
        cached_capture(tiny())


def test_a_damaged_cache_is_named(cache):
    folder = cached_capture(tiny())
    (folder / "transforms.json").unlink()
    with pytest.raises(CaptureError, match="remove that folder"):
        cached_capture(tiny())


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"data": Path("photos")}, "leave --data out"), ({"seed": -1}, "seed"), ({"num_views": 1}, "num_views")],
)
def test_options_that_cannot_be_are_refused(cache, changes, word):
    with pytest.raises(CaptureError, match=word):
        cached_capture(tiny(**changes))
    assert not cache.exists()


def test_the_entry_point_is_a_specification():
    assert isinstance(l2o_demo_dataparser, DataParserSpecification)
    assert isinstance(l2o_demo_dataparser.config, L2ODemoDataParserConfig)
