"""Options that cannot be used are named before anything long."""

import copy

import pytest
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.plugins.registry import discover_methods
from PIL import Image

from l2o_splat.plugin.errors import OptionError
from tests.plugin.captures import edit_transforms, method_config, train, write_tiny_capture
from tests.plugin.mutations import colmap_model


def data_config(folder, **options):
    config = copy.deepcopy(discover_methods()[0]["l2o-adam"].pipeline.datamanager)
    config.data = folder
    for name, value in options.items():
        setattr(config.dataparser if hasattr(config.dataparser, name) else config, name, value)
    return config


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"camera_res_scale_factor": 0.0}, "camera-res-scale-factor is 0.0; a factor above 0"),
        ({"camera_res_scale_factor": -0.5}, "camera-res-scale-factor is -0.5"),
        ({"camera_res_scale_factor": 1.5}, "camera-res-scale-factor is 1.5; .* at most 1"),
        ({"camera_res_scale_factor": float("nan")}, "camera-res-scale-factor is nan"),
        ({"camera_res_scale_factor": 0.25}, r"makes 001.png 12 x 9 pixels; .* 11 x 11: use 0.306 or more"),
        ({"views_per_step": 0}, "views-per-step is 0"),
        ({"downscale_factor": 0}, "downscale-factor is 0"),
        ({"downscale_factor": 2}, "no images_2 with smaller copies .*camera-res-scale-factor 0.5"),
        ({"scale_factor": float("inf")}, "scale-factor is inf"),
        ({"eval_interval": 1}, "eval-interval is 1, .* 2 or more"),
        ({"eval_mode": "fraction", "train_split_fraction": 0.0}, "train-split-fraction is 0.0"),
    ],
)
def test_a_number_out_of_range_is_named_with_its_option(tiny_capture, options, expected):
    with pytest.raises(OptionError, match=expected):
        data_config(tiny_capture, **options).setup(device="cpu", test_mode="val")


def test_the_smallest_scale_that_is_named_can_be_used(tiny_capture):
    manager = data_config(tiny_capture, camera_res_scale_factor=0.306).setup(device="cpu", test_mode="val")
    assert manager.cached_train[0]["image"].shape == (11, 14, 3)


def test_photographs_smaller_than_the_window_of_ssim(tmp_path):
    capture = write_tiny_capture(tmp_path / "capture")
    edit_transforms(capture, lambda meta: meta.update(w=48, h=10))
    with pytest.raises(OptionError, match=r"is 48 x 10 pixels; SSIM needs at least 11 x 11: use larger"):
        data_config(capture).setup(device="cpu", test_mode="val")


def test_a_run_without_steps(tiny_capture, tmp_path):
    with pytest.raises(SystemExit, match="max-num-iterations is 0; a run takes at least 1 step"):
        train(method_config(tiny_capture, tmp_path / "out", steps=0))


@pytest.mark.parametrize(("views", "held_out"), [(9, [0, 8]), (17, [0, 8, 16]), (5, [0])])
def test_every_eighth_photograph_is_held_out_by_default(tmp_path, views, held_out):
    capture = write_tiny_capture(tmp_path / "capture", num_views=views)
    manager = data_config(capture).setup(device="cpu", test_mode="test")
    assert [int(path.stem) for path in manager.eval_dataset.image_filenames] == held_out
    assert len(manager.train_dataset) == views - len(held_out)


class TestColmapWithoutTerminal:
    """More than 1600 pixels without smaller copies, where nobody can answer nerfstudio's question."""

    @pytest.fixture
    def large(self, tmp_path):
        capture = write_tiny_capture(tmp_path / "capture")
        colmap_model(capture)
        for path in (capture / "images").iterdir():
            Image.new("L", (1632, 1224)).save(path)
        return capture

    def parsed(self, folder, **options):
        config = data_config(folder)
        config.dataparser = ColmapDataParserConfig(colmap_path="sparse/0", **options)
        return config.setup(device="cpu", test_mode="test")

    def test_they_are_used_at_full_size(self, large, capsys):
        manager = self.parsed(large)
        assert {path.parent.name for path in manager.train_dataset.image_filenames} == {"images"}
        assert "used at full size" in " ".join(capsys.readouterr().out.split())

    def test_smaller_copies_that_exist_are_taken(self, large):
        (large / "images").rename(large / "images_2")
        (large / "images").mkdir()
        for path in (large / "images_2").iterdir():
            (large / "images" / path.name).symlink_to(path)
        manager = self.parsed(large)
        assert {path.parent.name for path in manager.train_dataset.image_filenames} == {"images_2"}
        assert int(manager.train_dataset._dataparser_outputs.cameras.width[0]) == 24

    def test_a_factor_that_was_typed_is_named(self, large):
        with pytest.raises(OptionError, match="downscale-factor is 4, but images_4 .*camera-res-scale-factor 0.25"):
            self.parsed(large, downscale_factor=4)
