"""The preset fast with weights of Learn2Splat's paper: their first steps, then the tuned rule and growth."""

import pytest
import torch

from l2o_splat.gaussians import FIELDS
from l2o_splat.plugin.pipeline import SCHEDULE, L2OPipeline
from l2o_splat.plugin.run_plan import resolve
from l2o_splat.schedule.presets import PRESETS
from l2o_splat.weights import load_weights
from tests.plugin.captures import last_checkpoint, method_config, train
from tests.plugin.test_time_budget import stepped_clock, timed_config, train_until_killed

__all__ = ["stepped_clock"]


def handed_over(capture, folder, after=4, method="learn2splat"):
    """40 steps by the stepped clock, the first few with the paper's network, or held near the start."""
    config = timed_config(capture, folder, 20.0, method)
    config.optimizers["gaussians"]["optimizer"].finish_after = after
    if method == "diff3r":
        config.pipeline.initialization.source, config.pipeline.initialization.context.num_views = "auto", 4
    return config


@pytest.mark.parametrize(("typed", "after"), [(None, PRESETS["fast"].hand_over_after), (7, 7)])
def test_fast_takes_first_steps_with_the_papers_network_and_goes_on_with_the_tuned_rule(tmp_path, typed, after):
    plan = resolve(handed_over(tmp_path, tmp_path, typed))
    assert plan.rules == ("learn2splat", "adam-own-scale")
    assert plan.switch_after == plan.fixed_steps == after and after > 0
    assert [card.system for card in plan.cards] == ["learn2splat"]


@pytest.mark.parametrize("preset", ["paper", "plain", None])
def test_other_presets_leave_the_run_to_the_network(tmp_path, preset):
    config = method_config(tmp_path, tmp_path, "learn2splat")
    config.preset = preset
    plan = resolve(config)
    assert plan.rules == ("learn2splat",) and plan.switch_after is None and plan.fixed_steps == 0
    config.optimizers["gaussians"]["optimizer"].finish_after = 7
    with pytest.raises(ValueError, match="needs both"):
        resolve(config)


def test_weights_of_the_package_need_no_second_rule(tmp_path):
    config = handed_over(tmp_path, tmp_path, None)
    config.optimizers["gaussians"]["optimizer"].weights = None
    plan = resolve(config)
    assert plan.rules == ("learn2splat",) and plan.fixed_steps == 0


def test_a_second_rule_that_was_typed_wins(tmp_path):
    config = handed_over(tmp_path, tmp_path, 3)
    config.optimizers["gaussians"]["optimizer"].finish_with = "adam"
    plan = resolve(config)
    assert plan.rules == ("learn2splat", "adam") and plan.switch_after == plan.fixed_steps == 3


def test_growth_begins_after_the_hand_over_and_ends_as_far(tiny_capture, tmp_path, stepped_clock, monkeypatch):
    """The network takes the first quarter of the run; events at 0.1 to 0.5 of the rest are 0.325 to 0.625 of all."""
    events, grow = [], L2OPipeline._grow_if_due

    def noted(pipeline, step, *args):
        done = pipeline.schedule.events_done
        grow(pipeline, step, *args)
        if pipeline.schedule.events_done > done:
            events.append((step, pipeline.schedule.pace.progress(step)))

    monkeypatch.setattr(L2OPipeline, "_grow_if_due", noted)
    config = handed_over(tiny_capture, tmp_path / "out", after=10)
    config.schedule.controller = "none"  # Constants of tuned Adam begin and end growth at other shares.
    trainer = train(config)
    share = trainer.run_schedule.fixed_share
    assert 0 < share < 0.5 and events[0][0] > 10
    assert [progress for _, progress in events] == pytest.approx(
        [share + (1 - share) * due for due in (0.1, 0.2, 0.3, 0.4, 0.5)], abs=0.05
    )
    assert trainer.pipeline.model.num_points == pytest.approx(1.5 * 60, abs=2)
    optimizer = trainer.optimizers.optimizers["gaussians"]
    assert optimizer.rule_state["second_begun"].item() == pytest.approx(share, abs=1e-6)


def test_diff3r_with_a_time_budget_lets_go_of_its_start_and_grows(tiny_capture, tmp_path, stepped_clock):
    config = handed_over(tiny_capture, tmp_path / "out", method="diff3r", after=None)
    config.preset = None
    plan = resolve(config)
    assert plan.preset == "fast" and plan.rules == ("proximal-own-scale", "adam-own-scale")
    assert plan.switch_after == plan.fixed_steps == PRESETS["fast"].hand_over_after
    in_steps = handed_over(tiny_capture, tmp_path / "out", method="diff3r", after=None)
    in_steps.preset, in_steps.seconds, in_steps.schedule.growth = None, None, None
    assert resolve(in_steps).preset == "paper" and resolve(in_steps).rules == ("proximal-own-scale",)

    trainer = train(config)
    assert trainer.pipeline.model.num_points == pytest.approx(1.5 * 60, abs=2)
    # The precisions are those of the start, which the scene has left.
    assert trainer.pipeline.model.precision is None


def test_diff3r_goes_on_with_learn2splat_and_the_weights_that_are_named_for_it(tmp_path):
    config = handed_over(tmp_path, tmp_path, method="diff3r")
    optimizer = config.optimizers["gaussians"]["optimizer"]
    optimizer.finish_with = "learn2splat"
    plan = resolve(config)
    assert plan.rules == ("proximal-own-scale", "learn2splat") and plan.finish_weights == "controller-mini"
    assert plan.weights is None and plan.controller.card.sha256 == load_weights("controller-mini").card.sha256
    optimizer.finish_weights = "gain-mini"
    plan = resolve(config)
    assert plan.controller is None and [card.system for card in plan.cards] == ["gain"]


def test_steps_that_hold_gaussians_are_those_of_the_paper(tiny_capture, tmp_path, stepped_clock):
    """On the context views at their size, with the squared loss and without dropout or constants of tuned Adam; but
    for the exposures of photographs that stand out, which are off here."""
    timed = handed_over(tiny_capture, tmp_path / "timed", after=6, method="diff3r")
    timed.seconds, timed.schedule.max_elongation = 3.0, float("inf")  # 6 steps
    timed.pipeline.model.exposure = "off"
    plain = handed_over(tiny_capture, tmp_path / "plain", after=None, method="diff3r")
    plain.preset, plain.seconds, plain.max_num_iterations, plain.schedule.growth = "paper", None, 6, None
    scenes = []
    for config in (timed, plain):
        trainer = train(config)
        assert trainer.completed_step == 5
        scenes.append(trainer.pipeline.model.train().gaussians.detach().pack())
    assert torch.equal(*scenes)


@pytest.mark.parametrize(
    ("method", "killed_at"), [("learn2splat", 5), ("learn2splat", 14), ("diff3r", 5), ("diff3r", 14)]
)
def test_a_run_that_is_killed_before_or_after_the_hand_over_goes_on_bit_for_bit(
    tiny_capture, tmp_path, stepped_clock, monkeypatch, method, killed_at
):
    whole = handed_over(tiny_capture, tmp_path / "whole", after=8, method=method)
    train(whole)
    killed = handed_over(tiny_capture, tmp_path / "killed", after=8, method=method)
    stepped_clock.seconds = 0.0
    train_until_killed(killed, killed_at, monkeypatch)
    stopped = torch.load(last_checkpoint(killed), weights_only=True)
    assert (stopped["step"] < 8) == (killed_at < 8)

    stepped_clock.seconds = 1000.0
    resumed = handed_over(tiny_capture, tmp_path / "resumed", after=8, method=method)
    resumed.load_dir = killed.get_checkpoint_dir()
    train(resumed)
    ends = [torch.load(last_checkpoint(config), weights_only=True) for config in (whole, resumed)]
    assert ends[0]["step"] == ends[1]["step"]
    for name in FIELDS:
        assert torch.equal(*(end["pipeline"][f"_model.gauss_params.{name}"] for end in ends)), name
    schedules = [end["pipeline"]["_extra_state"][SCHEDULE] for end in ends]
    assert schedules[0]["fixed_share"] == schedules[1]["fixed_share"] > 0
    assert schedules[0]["events_done"] == schedules[1]["events_done"] == 5
