"""Runs with a time budget, on a clock that moves with the steps."""

import json
import re

import numpy as np
import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from l2o_splat.budget import BudgetClock
from l2o_splat.gaussians import FIELDS
from l2o_splat.growth import adc
from l2o_splat.growth.budget import growth_by_pixels
from l2o_splat.plugin import trainer as trainer_room
from l2o_splat.plugin.camera_optimizer import PoseOptimizerConfig
from l2o_splat.plugin.model import L2OModel
from l2o_splat.plugin.pipeline import EXPOSURE, SCHEDULE, L2OPipeline
from l2o_splat.plugin.run_plan import resolve
from l2o_splat.schedule.controller import NAMES, Controller, RunStatistics
from l2o_splat.schedule.presets import PRESETS, highest_sh_degree
from l2o_splat.schedule.run_schedule import RunSchedule
from l2o_splat.weights import load_weights, save_weights
from l2o_splat.weights.format import WeightsCard
from tests.plugin.captures import last_checkpoint, method_config, train

SECONDS_OF_A_STEP = 0.5


@pytest.fixture
def stepped_clock(monkeypatch):
    """A clock that moves by half a second in each step, and stands still otherwise."""

    class Clock:
        seconds = 0.0

        def __call__(self) -> float:
            return self.seconds

    clock, step_loss = Clock(), L2OModel.step_loss

    def slow_step_loss(*args, **kwargs):
        clock.seconds += SECONDS_OF_A_STEP
        return step_loss(*args, **kwargs)

    monkeypatch.setitem(trainer_room.CLOCKS, "wall", clock)
    monkeypatch.setattr(L2OModel, "step_loss", slow_step_loss)
    return clock


def timed_config(capture, folder, seconds, method="l2o-adam-tuned"):
    config = method_config(capture, folder, method)
    config.max_num_iterations, config.seconds = None, seconds
    config.optimizers["gaussians"]["optimizer"].horizon = None
    config.preset, config.schedule.growth = "fast", 1.5
    return config


@pytest.mark.parametrize("seconds", [5.0, 20.2])
def test_a_run_ends_with_its_time(tiny_capture, tmp_path, stepped_clock, seconds):
    config = timed_config(tiny_capture, tmp_path / "out", seconds)
    trainer = train(config)
    taken = trainer.completed_step + 1
    assert abs(taken * SECONDS_OF_A_STEP - seconds) <= SECONDS_OF_A_STEP / 2
    assert last_checkpoint(config).stem == f"step-{trainer.completed_step:09d}"
    assert trainer.run_schedule.progress(taken) > 0.95


@pytest.mark.parametrize(("views", "degree"), [(1, 0), (7, 0), (8, 1), (17, 1), (18, 2), (31, 2), (32, 3), (500, 3)])
def test_each_coefficient_of_a_colour_has_two_views(views, degree):
    assert highest_sh_degree(views, 2.0) == degree
    assert highest_sh_degree(views, 0.0) == 3


@pytest.mark.parametrize(
    ("pixels", "points", "growth"),
    [(130e3, 15_000, 2.0), (600e3, 10_000, 3.0), (600e3, 7_000, 4.0), (12e6, 7_000, 4.0)],
)
def test_larger_photographs_get_more_gaussians(pixels, points, growth):
    assert growth_by_pixels(pixels, points) == growth


def test_few_photographs_train_no_high_degrees_unless_the_user_wants_them(tiny_capture, tmp_path, stepped_clock):
    for by_share, trained in ((None, False), (False, True)):
        config = timed_config(tiny_capture, tmp_path / str(by_share), 10.0)
        config.schedule.sh_by_share = by_share
        trainer = train(config)
        bands = trainer.pipeline.model.gauss_params["features_rest"].detach()
        assert len(trainer.pipeline.datamanager.train_dataset) < 18
        assert bands[:, 3:].any() == trained


def controlled_config(capture, folder, seconds):
    """Under a controller of which every number does something."""
    rng = np.random.default_rng(3)
    path = folder.parent / "controller"
    save_weights(path, controller_weights(Controller(rng.uniform(-0.4, 0.4, len(NAMES)))))
    config = timed_config(capture, folder, seconds)
    config.schedule.controller, config.schedule.growth = f"{path}.safetensors", None
    return config


def controller_weights(controller):
    return controller.to_weights(WeightsCard("controller", {"numbers": list(NAMES)}))


def refining_config(capture, folder, seconds):
    """With poses that move beside the scene."""
    config = timed_config(capture, folder, seconds)
    config.pipeline.model.camera_optimizer = PoseOptimizerConfig(mode="SO3xR3")
    return config


def exposed_config(capture, folder, seconds):
    """With a transform of colours for each photograph."""
    config = timed_config(capture, folder, seconds)
    config.pipeline.model.exposure = "affine"
    return config


def adc_config(capture, folder, seconds):
    config = timed_config(capture, folder, seconds, "l2o-adam")
    config.preset, config.schedule.growth = "adc", None
    return config


@pytest.fixture
def early_density_control(monkeypatch):
    """3DGS's density control from the 6th image on, every 6 images: every 2 steps of these runs."""
    monkeypatch.setattr(adc, "FIRST_ITERATION", 6)
    monkeypatch.setattr(adc, "ITERATIONS_BETWEEN", 6)


@pytest.mark.usefixtures("early_density_control")
@pytest.mark.parametrize(
    ("config_of", "kills"),
    [
        (timed_config, (12, 25)),
        (refining_config, (12, 25)),
        (controlled_config, (15,)),
        (exposed_config, (25,)),
        (adc_config, (8, 17)),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(tiny_capture, tmp_path, stepped_clock, monkeypatch, config_of, kills):
    """Across growth, changes of the SH degree and revisions of the pace."""
    whole = config_of(tiny_capture, tmp_path / "whole", 20.0)
    num_points = train(whole).pipeline.model.num_points
    if config_of in (timed_config, refining_config, exposed_config):
        assert num_points == pytest.approx(1.5 * 60, abs=2)
    else:
        assert num_points > 60

    for killed_at in kills:
        folder = tmp_path / str(killed_at)
        killed = config_of(tiny_capture, folder / "killed", 20.0)
        stepped_clock.seconds = 0.0
        train_until_killed(killed, killed_at, monkeypatch)
        assert 0 < torch.load(last_checkpoint(killed), weights_only=True)["step"] < killed_at - 1

        stepped_clock.seconds = 1000.0
        resumed = config_of(tiny_capture, folder / "resumed", 20.0)
        resumed.load_dir = killed.get_checkpoint_dir()
        train(resumed)
        ends = [torch.load(last_checkpoint(config), weights_only=True) for config in (whole, resumed)]
        assert ends[0]["step"] == ends[1]["step"]
        for name in FIELDS:
            tensors = [end["pipeline"][f"_model.gauss_params.{name}"] for end in ends]
            assert torch.equal(*tensors), (name, killed_at)
        poses = [{n: t for n, t in end["pipeline"].items() if ".camera_optimizer." in n} for end in ends]
        assert len(poses[0]) == len(poses[1]) == (5 if config_of is refining_config else 0)
        assert all(torch.equal(poses[0][name], poses[1][name]) for name in poses[0])
        schedules = [end["pipeline"]["_extra_state"][SCHEDULE] for end in ends]
        assert schedules[0]["events_done"] == schedules[1]["events_done"] >= 5
        if config_of is exposed_config:
            exposures = [end["pipeline"]["_extra_state"][EXPOSURE] for end in ends]
            for name in ("transforms", "moments", "ages"):
                assert exposures[0][name].any() and torch.equal(exposures[0][name], exposures[1][name]), name
        for name in ("spent", "pace", "views", "log_losses"):
            assert schedules[0][name] == schedules[1][name]
        assert (len(schedules[0]["views"]) > 1) == (config_of is controlled_config)


class Killed(Exception):
    pass


def train_until_killed(config, killed_at, monkeypatch):
    """Train until the loss of a step, counted from 1."""
    trained, step_loss = 0, L2OModel.step_loss

    def killed_step_loss(*args, **kwargs):
        nonlocal trained
        trained += 1
        if trained == killed_at:
            raise Killed
        return step_loss(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(L2OModel, "step_loss", killed_step_loss)
        train(config)


def test_a_controller_decides_on_views_growth_and_rates_of_a_run(tiny_capture, tmp_path, stepped_clock):
    numbers = dict.fromkeys(NAMES, 0.0) | {"views.mean": -0.6, "growth.mean": 0.3, "means.mean": 0.5}
    controller = Controller(np.array(list(numbers.values())))
    save_weights(tmp_path / "mine", controller_weights(controller))
    config = timed_config(tiny_capture, tmp_path / "out", 10.0)
    config.schedule.controller, config.schedule.growth = str(tmp_path / "mine.safetensors"), None
    trainer = train(config)
    optimizer, sampler = trainer.optimizers.optimizers["gaussians"], trainer.pipeline.datamanager.view_sampler
    views = round(config.pipeline.datamanager.views_per_step * controller.factor("views", RunStatistics(0.0)))
    assert [len(sampler.views(step)) for step in range(trainer.completed_step)] == [views] * trainer.completed_step
    assert trainer.pipeline.model.num_points == round(60 * 2 * controller.factor("growth", RunStatistics(0.0)))
    assert optimizer.gains.rates["means"] > 1.4 and optimizer.gains.rates["scales"] == 1
    effective = json.loads((trainer.base_dir / "effective.json").read_text())
    assert effective["controller"]["sha256"] == load_weights(tmp_path / "mine.safetensors").card.sha256


def test_the_average_of_the_last_scenes_is_evaluated_and_saved_and_the_last_scene_trained(
    tiny_capture, tmp_path, stepped_clock
):
    config = timed_config(tiny_capture, tmp_path, 20.0)
    trainer = train(config)
    model, shown = trainer.pipeline.model, trainer.pipeline.get_average_eval_image_metrics()
    scene = model.gaussians.detach().pack().clone()
    average = model.eval().gaussians.detach().pack().clone()
    assert torch.equal(model.train().gaussians.detach().pack(), scene)
    assert 1e-4 < (average - scene).norm() / scene.norm() < 0.1
    # As ns-eval, ns-viewer and ns-export load it.
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    assert torch.equal(pipeline.model.gaussians.detach().pack(), average)
    assert pipeline.get_average_eval_image_metrics()["psnr"] == shown["psnr"]


def test_learn2splat_takes_the_controller_of_the_package_under_fast_and_the_gain_rule_elsewhere(tiny_capture, tmp_path):
    def plan(**changes):
        config = method_config(tiny_capture, tmp_path, "learn2splat")
        config.preset, config.max_num_iterations = None, None
        config.optimizers["gaussians"]["optimizer"].weights = None
        for name, value in changes.items():
            setattr(config, name, value)
        return resolve(config)

    assert plan().preset == "fast" and plan().weights == "controller-mini" and plan().controller is not None
    assert plan(preset="fast").controller.card.sha256 == load_weights("controller-mini").card.sha256
    for preset in ("plain", "paper"):
        assert plan(preset=preset).controller is None
        assert [card.system for card in plan(preset=preset).cards] == ["gain"]


def test_tuned_adam_has_its_constants_with_the_preset_fast(tiny_capture, tmp_path):
    def controller(method="l2o-adam-tuned", preset=None, typed=None, resumed=None):
        config = method_config(tiny_capture, tmp_path, method)
        config.preset, config.max_num_iterations, config.schedule.controller = preset, None, typed
        return resolve(config, resumed).controller

    constants = load_weights("constants-mini")
    assert not Controller.from_weights(constants).responds
    for method, preset in (("l2o-adam-tuned", None), ("l2o-adam-tuned", "fast")):
        assert controller(method, preset).card.sha256 == constants.card.sha256
    assert controller(typed="none") is None
    assert controller(typed="controller-mini").card.sha256 == load_weights("controller-mini").card.sha256
    assert controller("l2o-adam", "fast") is None
    for preset in ("plain", "paper"):
        assert controller(preset=preset) is None
    # Runs of versions without them go on as they began.
    schedule = RunSchedule(PRESETS["fast"], 10.0, 1, BudgetClock()).state()
    assert controller(resumed=schedule).card.sha256 == constants.card.sha256
    del schedule["controller"]
    assert controller(resumed=schedule) is None and controller(resumed={}) is None


def test_learn2splat_with_the_weights_of_a_controller_is_tuned_adam_under_it(tiny_capture, tmp_path, stepped_clock):
    controller = Controller(np.random.default_rng(4).uniform(-0.4, 0.4, len(NAMES)))
    save_weights(tmp_path / "mine", controller_weights(controller))
    scenes = []
    for method in ("learn2splat", "l2o-adam-tuned"):
        stepped_clock.seconds = 0.0
        config = timed_config(tiny_capture, tmp_path / method, 6.0, method)
        # The preset fast is the default of both.
        config.preset, config.schedule.growth = None, None
        if method == "learn2splat":
            config.optimizers["gaussians"]["optimizer"].weights = str(tmp_path / "mine.safetensors")
        else:
            config.schedule.controller = str(tmp_path / "mine.safetensors")
        scenes.append(train(config).pipeline.model.gaussians.detach().pack())
    assert torch.equal(*scenes)


def test_a_controller_belongs_to_the_preset_fast(tiny_capture, tmp_path):
    save_weights(tmp_path / "mine", controller_weights(Controller.neutral()))
    config = timed_config(tiny_capture, tmp_path / "out", 5.0)
    config.preset, config.schedule.controller = "plain", str(tmp_path / "mine.safetensors")
    with pytest.raises(SystemExit, match="and --preset is plain; controllers are made for the preset fast"):
        config.setup(local_rank=0, world_size=1)
    config.preset, config.schedule.controller = "fast", "gain-mini"
    with pytest.raises(SystemExit, match="controller weights are needed"):
        config.setup(local_rank=0, world_size=1)


def test_a_spent_budget_and_a_longer_one(tiny_capture, tmp_path, stepped_clock, capsys):
    first = timed_config(tiny_capture, tmp_path / "first", 5.0)
    steps = train(first).completed_step + 1
    again = timed_config(tiny_capture, tmp_path / "again", 5.0)
    again.load_dir = first.get_checkpoint_dir()
    with pytest.raises(SystemExit, match=r"the run that is resumed has taken 5\.0 s; give more seconds\."):
        train(again)
    again.seconds = 10.0
    trainer = train(again)
    assert trainer.completed_step + 1 == 2 * steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 0.0}, "--seconds is 0.0; a time above 0 is needed"),
        ({"seconds": float("nan")}, "--seconds is nan"),
        ({"max_num_iterations": 5}, "a run has one budget"),
        ({"preset": "adc"}, "--schedule.growth is 1.5, and the density control of --preset adc finds the number"),
    ],
)
def test_bad_budgets_are_refused_before_the_capture_is_read(tiny_capture, tmp_path, changes, message):
    config = timed_config(tmp_path / "no capture", tmp_path / "out", 5.0)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(SystemExit, match=re.escape(message)):
        config.setup(local_rank=0, world_size=1)


def test_a_budget_that_the_start_uses_up_is_refused(tiny_capture, tmp_path, stepped_clock, monkeypatch):
    start_scene = L2OPipeline.start_scene

    def slow_start(*args, **kwargs):
        stepped_clock.seconds += 6.0
        return start_scene(*args, **kwargs)

    monkeypatch.setattr(L2OPipeline, "start_scene", slow_start)
    with pytest.raises(
        SystemExit, match=r"--seconds is 5, and the start alone took 6\.0 s; give more seconds, or start"
    ):
        train(timed_config(tiny_capture, tmp_path / "out", 5.0))


def test_held_out_photographs_are_measured_at_shares_of_the_time(tiny_capture, tmp_path, stepped_clock, monkeypatch):
    config = timed_config(tiny_capture, tmp_path / "out", 20.0)
    config.vis = "tensorboard"
    measured, measure = [], L2OPipeline.get_average_eval_image_metrics

    def noted(pipeline, step=None, *args, **kwargs):
        measured.append(stepped_clock.seconds)
        return measure(pipeline, step, *args, **kwargs)

    monkeypatch.setattr(L2OPipeline, "get_average_eval_image_metrics", noted)
    train(config)
    assert measured == pytest.approx([2.0, 5.0, 10.0, 15.0, 20.0], abs=2 * SECONDS_OF_A_STEP)
