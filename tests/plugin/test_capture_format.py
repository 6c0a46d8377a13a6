"""The advice fits what the folder holds and what was typed; mistakes of ours keep their stack trace."""

import copy
import shutil

import pytest
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.registry import discover_methods

from l2o_splat.plugin import parsers
from l2o_splat.plugin.capture_checks import CaptureError
from tests.plugin.captures import write_tiny_capture
from tests.plugin.mutations import colmap_model


def load(folder, parser=None):
    config = copy.deepcopy(discover_methods()[0]["l2o-adam"].pipeline.datamanager)
    config.data, config.dataparser = folder, parser or NerfstudioDataParserConfig(load_3D_points=True)
    return config.setup(device="cpu", test_mode="val")


@pytest.fixture
def both(tmp_path):
    """A capture in both formats."""
    capture = write_tiny_capture(tmp_path / "capture")
    colmap_model(capture)
    return capture


def test_a_colmap_model_is_named(both):
    (both / "transforms.json").unlink()
    with pytest.raises(CaptureError, match="nerfstudio-data cannot read .*`colmap --colmap-path sparse/0`"):
        load(both)
    with pytest.raises(CaptureError, match="--colmap-path is colmap/sparse/0, .*`colmap --colmap-path sparse/0`"):
        load(both, ColmapDataParserConfig())


def test_a_transforms_json_is_named(both):
    shutil.rmtree(both / "sparse")
    for parser in (ColmapDataParserConfig(), BlenderDataParserConfig()):
        with pytest.raises(CaptureError, match="cannot read .* holds a transforms.json: put `nerfstudio-data`"):
            load(both, parser)


def test_photographs_without_poses_are_counted(both):
    shutil.rmtree(both / "sparse")
    (both / "transforms.json").unlink()
    with pytest.raises(CaptureError, match="holds 9 photographs and no poses: `l2o photos "):
        load(both)


def test_a_folder_of_photographs_that_is_not_there(both):
    (both / "images").rename(both / "pictures")
    with pytest.raises(CaptureError, match="--images-path is images, and there is no such folder"):
        load(both, ColmapDataParserConfig(colmap_path="sparse/0"))


@pytest.mark.parametrize("content", ['{"frames": [', "\ufeff{}", "", "[" * 100_000])
def test_json_that_is_none(both, content):
    (both / "transforms.json").write_text(content, encoding="utf-8")
    with pytest.raises(CaptureError, match="transforms.json cannot be read as JSON .*write the capture anew") as caught:
        load(both)
    assert "nerfstudio-data" not in str(caught.value)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_a_colmap_model_that_is_cut_short(both, name):
    path = both / f"sparse/0/{name}.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CaptureError, match=f"{name}.bin is cut short") as caught:
        load(both, ColmapDataParserConfig(colmap_path="sparse/0"))
    assert "nerfstudio-data" not in str(caught.value)


@pytest.mark.parametrize("error", [TypeError("ours"), KeyError("ours"), AttributeError("ours")])
def test_mistakes_in_our_own_lines_keep_their_stack_trace(both, monkeypatch, error):
    def mistaken(meta, path):
        raise error

    monkeypatch.setattr(parsers, "check_transforms", _in_our_package(mistaken))
    with pytest.raises(type(error)) as caught:
        load(both)
    assert not isinstance(caught.value, CaptureError)


def _in_our_package(function):
    """The function as if it were written in this package."""
    from types import FunctionType

    return FunctionType(function.__code__, {"__name__": "l2o_splat.plugin.imagined"}, closure=function.__closure__)


@pytest.mark.parametrize("error", [TypeError("of nerfstudio"), StopIteration(), MemoryError(), EOFError("no answer")])
def test_whatever_a_parser_of_nerfstudio_raises_names_parser_and_capture(both, monkeypatch, error):
    def failing(self, split="train", **kwargs):
        raise error

    parser = BlenderDataParserConfig(data=both)
    monkeypatch.setattr(parser._target, "get_dataparser_outputs", failing)
    with pytest.raises(CaptureError, match="^blender-data cannot read .*capture"):
        load(both, parser)
