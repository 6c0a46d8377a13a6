"""The estimate of a run is printed early, once, and again only when it changes."""

import pytest
import torch

from l2o_splat.optim.gain import GainConfig
from l2o_splat.optim.sequence import SequencedRule
from l2o_splat.plugin.run_estimate import RunEstimate, spoken
from tests.optim.gain import make_rule as make_gain
from tests.optim.rules import all_cases
from tests.plugin.captures import method_config
from tests.plugin.console import printed


class Clock:
    """A clock that stands still until a test moves it on."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def run(kinds, cost, rule=lambda step: 0.0, steps=None, pause=0.0):
    """An estimate after ``steps`` steps, and what it told after how many of them."""
    clock, told = Clock(), []
    estimate = RunEstimate(kinds, lambda text: told.append((step + 1, text)), clock)
    for step in range(len(kinds) if steps is None else steps):
        estimate.begin()
        clock.seconds += cost(step) - rule(step)
        estimate.rule_begins()
        clock.seconds += rule(step)
        estimate.rule_ends()
        estimate.end_step()
        with estimate.left_out():
            clock.seconds += pause
    return estimate, told


def test_it_is_told_early_and_again_after_a_tenth():
    estimate, told = run([""] * 2000, lambda step: 30.0 if step == 0 else 0.1, pause=77.0)
    assert [step for step, _ in told] == [11, 200]
    assert told[0][1].startswith("This run takes about 4 min for 2000 steps, judging by the first 11 of them; ")
    assert told[1][1].startswith("After 200 of 2000 steps: about 3 min left, 4 min for the whole run; ")
    assert all("evaluations and saves come on top" in text for _, text in told)
    assert estimate.told == pytest.approx([229.9, 229.9]) and estimate.spent == pytest.approx(229.9)


def test_slow_steps_are_told_of_sooner():
    _, told = run([""] * 100, lambda step: 60.0, steps=3)
    assert [step for step, _ in told] == [2] and "1.7 h for 100 steps" in told[0][1]


def test_it_is_told_again_when_it_has_changed_by_half():
    _, told = run([""] * 300, lambda step: 1.0 if step < 50 else 4.0)
    assert told[0][0] == 11 and "5 min" in told[0][1]
    changed = next(step for step, _ in told if step > 30)
    assert 50 < changed < 90
    assert 3 <= len(told) <= 7


@pytest.mark.parametrize("cost", [lambda step: 0.1, lambda step: 0.08 + 0.04 * (step % 2)])
def test_a_steady_run_is_told_of_twice_alone(cost):
    estimate, told = run([""] * 400, cost)
    assert [step for step, _ in told] == [11, 40]
    assert estimate.told == pytest.approx([estimate.spent] * 2, rel=0.05)


def test_single_slow_steps_do_not_count_for_the_others():
    estimate, _ = run([""] * 400, lambda step: 5.0 if step in (3, 17) else 0.1, steps=40)
    assert estimate.told[-1] == pytest.approx(40 + 2 * 4.9 - 36.0 + 36.0, rel=0.05)


def test_a_run_of_few_steps_is_over_before_there_is_anything_to_tell():
    assert run([""] * 10, lambda step: 30.0)[1] == []


@pytest.mark.parametrize("steps", [200, 2000])
def test_queries_that_become_rare_are_counted_as_such(steps):
    rule = make_gain(query_growth=20.0)
    kinds = [rule.work_at(step) for step in range(steps)]
    assert kinds[:21] == ["query"] * 21 and kinds[21] == "no query"
    assert kinds.count("query") < 200

    def update(step):
        return 1.0 if kinds[step] == "query" else 0.33

    estimate, _ = run(kinds, lambda step: 1.6 + update(step), update)
    assert estimate.told[0] == pytest.approx(estimate.spent, rel=0.15)
    # After a tenth of 200 steps there was no step without a query yet.
    assert estimate.told[-1] == pytest.approx(estimate.spent, rel=0.02 if steps == 2000 else 0.15)


def test_a_resumed_run_goes_on_with_the_schedule_of_the_rule():
    rule = make_gain(query_growth=20.0)
    kinds = [rule.work_at(step) for step in range(500, 700)]
    assert kinds.count("query") == sum(rule._queries_at(step) for step in range(500, 700)) < 12


def test_every_rule_says_what_it_does_in_a_step():
    for name, case in all_cases().items():
        assert all(isinstance(case.rule.work_at(step), str) for step in range(8)), name
    gain, adam = make_gain(query_growth=2.0), all_cases()["adam"].rule
    kinds = [SequencedRule(adam, gain, 3).work_at(step) for step in range(8)]
    assert kinds[:3] == ["first "] * 3
    assert kinds[3:] == [f"second {gain.work_at(step)}" for step in range(5)]
    assert GainConfig().query_growth == 20.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (45.2, "45 s"), (100, "2 min"), (5900, "98 min"), (6300, "1.8 h")]
)
def test_durations_are_spoken(seconds, text):
    assert spoken(seconds) == text


def test_a_run_tells_its_time_and_leaves_evaluations_and_saves_out(tiny_capture, tmp_path, monkeypatch, capsys):
    config = method_config(tiny_capture, tmp_path / "out", "l2o-adam-tuned", steps=30)
    config.steps_per_save, config.steps_per_eval_all_images = 2, 3
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    clock = Clock()
    trainer.estimate.now = clock

    def slow(function, seconds):
        def slowly(*args, **kwargs):
            clock.seconds += seconds
            return function(*args, **kwargs)

        return slowly

    monkeypatch.setattr(trainer.pipeline, "get_train_loss_dict", slow(trainer.pipeline.get_train_loss_dict, 2.0))
    evaluate = trainer.pipeline.get_average_eval_image_metrics
    monkeypatch.setattr(trainer.pipeline, "get_average_eval_image_metrics", slow(evaluate, 500.0))
    monkeypatch.setattr(torch, "save", slow(torch.save, 900.0))
    trainer.train()
    assert clock.seconds > 10_000
    assert trainer.estimate.spent == pytest.approx(60.0)
    assert trainer.estimate.told == pytest.approx([60.0, 60.0])
    assert "This run takes about 60 s for 30 steps" in printed(capsys)
