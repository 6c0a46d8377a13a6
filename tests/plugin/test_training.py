"""Training, resuming and evaluating through nerfstudio's own trainer."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from nerfstudio.plugins.registry import discover_methods
from nerfstudio.utils.eval_utils import eval_setup

from l2o_splat.gaussians import FIELDS
from l2o_splat.optim.rule import RuleState
from l2o_splat.weights import load_weights, save_weights
from tests.plugin.captures import edit_transforms, last_checkpoint, method_config, train

METHODS = ["l2o-adam", "l2o-adam-tuned", "learn2splat"]


def test_methods_are_found_by_nerfstudio():
    methods, descriptions = discover_methods()
    assert set(METHODS) <= set(methods)
    assert all(descriptions[name] for name in METHODS)


def test_the_entry_point_imports_without_gpu_toolkit_or_weights():
    code = "import l2o_splat.plugin.configs, torch; assert not torch.cuda.is_initialized()"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": "", "HOME": "/nonexistent"},
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_short_run_improves_the_held_out_views(tiny_capture, tmp_path, method):
    config = method_config(tiny_capture, tmp_path / "out", method, steps=60)
    config.optimizers["gaussians"]["optimizer"].horizon = 60
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    before = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    trainer.train()
    after = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    assert after > before + 1


@pytest.mark.parametrize("method", METHODS)
def test_resuming_equals_an_uninterrupted_run_bit_for_bit(tiny_capture, tmp_path, method):
    whole = method_config(tiny_capture, tmp_path / "whole", method, steps=12)
    train(whole)
    first = method_config(tiny_capture, tmp_path / "first", method, steps=6)
    train(first)
    second = method_config(tiny_capture, tmp_path / "second", method, steps=6)
    second.load_dir = first.get_checkpoint_dir()
    trainer = train(second)
    assert trainer.step == 11
    uninterrupted = torch.load(last_checkpoint(whole), weights_only=True)
    resumed = torch.load(last_checkpoint(second), weights_only=True)
    assert resumed["step"] == uninterrupted["step"] == 11
    for name in FIELDS:
        key = f"_model.gauss_params.{name}"
        assert torch.equal(resumed["pipeline"][key], uninterrupted["pipeline"][key]), name
    state, expected = (RuleState(**saved["optimizers"]["gaussians"]["state"][0]) for saved in (resumed, uninterrupted))
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_evaluation_needs_only_the_checkpoint(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out")
    trainer = train(config)
    expected = trainer.pipeline.get_average_eval_image_metrics()
    _, pipeline, _, step = eval_setup(config.get_base_dir() / "config.yml")
    assert step == 9
    assert pipeline.get_average_eval_image_metrics()["psnr"] == pytest.approx(expected["psnr"], abs=1e-6)


def test_other_raster_settings_than_the_checkpoints_are_refused(tiny_capture, tmp_path):
    first = method_config(tiny_capture, tmp_path / "first", steps=2)
    train(first)
    second = method_config(tiny_capture, tmp_path / "second", steps=2)
    second.load_dir = first.get_checkpoint_dir()
    second.pipeline.model.eps2d = 0.1
    with pytest.raises(SystemExit, match="raster settings {'eps2d': 0.3}"):
        train(second)


def test_a_capture_without_points_starts_from_random_ones(tiny_capture, tmp_path):
    edit_transforms(tiny_capture, lambda meta: meta.pop("ply_file_path"))
    config = method_config(tiny_capture, tmp_path / "out", steps=2)
    config.pipeline.initialization.num_points = 123
    assert train(config).pipeline.model.num_points == 123


@pytest.mark.parametrize(("num_points", "pad", "expected"), [(20, False, 20), (80, True, 80), (80, False, 60)])
def test_the_number_of_gaussians_can_be_set(tiny_capture, tmp_path, num_points, pad, expected):
    config = method_config(tiny_capture, tmp_path / "out", steps=2)
    config.pipeline.initialization.num_points = num_points
    config.pipeline.initialization.pad = pad
    assert train(config).pipeline.model.num_points == expected


def test_a_viewer_that_sets_its_own_background_does_not_change_training(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out", steps=2)
    pipeline = train(config).pipeline
    model, (camera, _) = pipeline.model, pipeline.datamanager.fixed_indices_eval_dataloader[0]
    settings, saved, before = model.raster_settings(), model.get_extra_state(), model.get_outputs_for_camera(camera)
    model.set_background(torch.tensor([0.1, 0.2, 0.3]))
    assert (model.raster_settings(), model.get_extra_state()) == (settings, saved)
    after = model.get_outputs_for_camera(camera)
    assert after["accumulation"].min() < 0.9, "no background is seen"
    assert after.keys() == before.keys() and all(after[name].equal(before[name]) for name in before)


def test_the_rule_is_one_flag_and_can_be_finished_by_another(tiny_capture, tmp_path):
    def last_gaussians(name, method, **options):
        config = method_config(tiny_capture, tmp_path / name, method, steps=6)
        for option, value in options.items():
            setattr(config.optimizers["gaussians"]["optimizer"], option, value)
        return train(config).pipeline.model.gaussians.pack()

    learned = last_gaussians("learned", "learn2splat")
    assert torch.equal(last_gaussians("flag", "l2o-adam", rule="learn2splat", weights="random:0"), learned)
    finished = last_gaussians("finished", "learn2splat", finish_with="adam", finish_after=5)
    late = last_gaussians("late", "learn2splat", finish_with="adam", finish_after=7)
    assert torch.equal(late, learned)
    assert not torch.equal(finished, learned)


def test_the_weights_of_the_package_run_where_none_are_named(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out", "learn2splat", steps=40)
    config.optimizers["gaussians"]["optimizer"].weights = None
    pipeline = train(config).pipeline
    learned = pipeline.get_average_eval_image_metrics()["psnr"]
    baseline = method_config(tiny_capture, tmp_path / "baseline", "l2o-adam", steps=40)
    assert learned > train(baseline).pipeline.get_average_eval_image_metrics()["psnr"]


def test_weights_bring_their_raster_settings_and_evaluation_keeps_them(tiny_capture, tmp_path):
    weights = load_weights("random:0")
    card = replace(weights.card, raster={"rasterize_mode": "antialiased", "eps2d": 1e-4})
    save_weights(tmp_path / "mine", replace(weights, card=card))
    config = method_config(tiny_capture, tmp_path / "out", "learn2splat", steps=2)
    config.optimizers["gaussians"]["optimizer"].weights = str(tmp_path / "mine")
    trained = train(config).pipeline.model.raster_settings()
    assert (trained.rasterize_mode, trained.eps2d) == ("antialiased", 1e-4)
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    assert pipeline.model.raster_settings() == trained
    chosen = method_config(tiny_capture, tmp_path / "chosen", "learn2splat", steps=2)
    chosen.optimizers["gaussians"]["optimizer"].weights = str(tmp_path / "mine")
    chosen.pipeline.model.eps2d = 0.3
    assert train(chosen).pipeline.model.raster_settings().eps2d == 0.3
