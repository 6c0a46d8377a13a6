"""Every derived number of the report, from synthetic logs."""

import math

import pytest

from l2o_splat.bench.measures import (
    ALL_SCENES,
    Results,
    at_seconds,
    at_step,
    best,
    curve,
    degradation,
    last,
    step_time,
)
from tests.bench.logs import make_run, make_spec, two_scene_results


@pytest.fixture
def results(tmp_path):
    return two_scene_results(tmp_path)


def test_a_run_is_what_its_log_says(tmp_path):
    run = make_run(tmp_path, step_seconds=[8.0, 1.0, 3.0, 2.0], quality={0: 10.0, 1: 12.0, 4: 11.0}, peak=123.0)
    # The first step counts as the median of the others, 2 s; the initializer took 0.5 s, and compiling before it 3 s.
    assert [(point.step, point.seconds, point.psnr) for point in run.curve] == [
        (0, 0.5, 10),
        (1, 2.5, 12),
        (4, 8.5, 11),
    ]
    assert [point.ssim for point in run.curve] == [0.1, 0.12, 0.11]
    assert run.curve[2].lpips == pytest.approx(1 / 11)
    assert run.step_seconds == {"total": 2.0, "render": 1.0, "backward": 0.75, "update": 0.25}
    assert (run.compile_seconds, run.initializer_seconds, run.loading_seconds) == (9.0, 0.5, 2.0)
    assert (run.steps, run.seconds, run.status, run.reason) == (4, 8.5, "ok", "")
    assert (run.num_gaussians, run.peak_memory_mib) == (1004, 123.0)
    assert (run.best.step, run.last.step, degradation(run)) == (1, 4, 1.0)


def test_a_value_at_a_clock_time_is_the_last_before_it_and_blank_if_not_reached(tmp_path):
    run = make_run(tmp_path, step_seconds=[1.0, 1.0, 1.0, 1.0], quality={0: 10.0, 1: 11.0, 2: 12.0, 4: 14.0})
    values = {second: at_seconds("psnr", second)(run) for second in (0.4, 0.5, 1.4, 1.5, 3.9, 4.5, 4.6)}
    assert values == {0.4: None, 0.5: 10, 1.4: 10, 1.5: 11, 3.9: 12, 4.5: 14, 4.6: None}


def test_a_value_after_a_step_that_was_not_evaluated_is_blank(tmp_path):
    run = make_run(tmp_path, quality={0: 10.0, 4: 14.0})
    assert [at_step("psnr", step)(run) for step in (0, 3, 4, 5)] == [10, None, 14, None]


def test_medians_and_spreads_over_seeds(results):
    cell = results.cell("fern", "adam", last("psnr"))
    assert (cell.value, cell.spread, cell.low, cell.high) == (14.5, 1.0, 14.0, 15.0)
    assert results.cell("fern", "tuned", best("psnr")).value == 20.5
    assert results.cell("fern", "tuned", best("step")).value == 2
    assert results.cell("fern", "tuned", degradation).value == 1.0
    assert results.cell("fox", "adam", last("psnr")).spread == 0.0


def test_one_seed_has_no_spread(tmp_path):
    results = Results({}, [make_run(tmp_path)])
    assert results.cell("fern", "adam", last("psnr")).spread is None
    assert results.scene_groups == ["fern"]


def test_the_mean_over_scenes_is_taken_per_seed(results):
    cell = results.cell(ALL_SCENES, "adam", last("psnr"))
    # Seed 0: (14 + 10) / 2, seed 1: (15 + 10) / 2.
    assert (cell.low, cell.high, cell.value) == (12.0, 12.5, 12.25)


def test_a_failed_run_counts_as_failed_and_is_never_dropped_from_a_mean(tmp_path, results):
    failed = make_run(
        tmp_path, make_spec("fox", "tuned", 1), step_seconds=[1.0], quality={0: 99.0}, status="failed", reason="broke"
    )
    runs = [run for run in results.runs if (run.scene, run.method, run.seed) != ("fox", "tuned", 1)]
    results = Results(results.environment, [*runs, failed])
    for measure in (last("psnr"), at_step("psnr", 0), step_time):
        assert (results.cell("fox", "tuned", measure).value, results.cell("fox", "tuned", measure).note) == (
            None,
            "failed 1/2",
        )
        assert results.cell(ALL_SCENES, "tuned", measure).note == "failed 1/4"
    assert results.step_ratio(ALL_SCENES, "tuned").note == "failed 1/4"
    assert results.in_budget("fox", "tuned", last("psnr")).note == "failed 1/2"
    assert results.cell("fern", "tuned", last("psnr")).value == 19.5
    assert curve(results, "fox", "tuned", "psnr") == {"steps": [], "seconds": [], "other_seconds": []}


@pytest.mark.parametrize(
    ("status", "note"), [("out_of_memory", "failed"), ("unavailable", "unavailable"), (None, "pending 1/1")]
)
def test_what_did_not_come_to_a_good_end_says_so(tmp_path, status, note):
    results = Results({}, [make_run(tmp_path, status=status)])
    assert results.cell("fern", "adam", last("psnr")).note == note


def test_a_time_that_some_seed_did_not_reach_is_blank_not_a_median_of_the_others(tmp_path):
    slow = make_run(tmp_path, make_spec(seed=1), step_seconds=[5.0, 5.0, 5.0, 5.0])
    results = Results({}, [make_run(tmp_path), slow])
    cell = results.cell("fern", "adam", at_seconds("psnr", 10))
    assert (cell.value, cell.note) == (None, "")
    assert results.cell("fern", "adam", at_seconds("psnr", 3)).value == 10.0


def test_step_times_are_compared_as_ratios(results):
    assert results.cell("fern", "tuned", step_time).value == 2.0
    assert results.step_ratio("fern", "tuned").value == 2.0
    assert results.step_ratio(ALL_SCENES, "adam").value == 1.0


def test_the_ratio_over_scenes_is_a_geometric_mean(tmp_path):
    runs = []
    for scene, factor in (("fern", 2.0), ("fox", 8.0)):
        runs.append(make_run(tmp_path, make_spec(scene, "adam"), step_seconds=[1.0] * 4))
        runs.append(make_run(tmp_path, make_spec(scene, "slow"), step_seconds=[factor] * 4))
    assert math.isclose(Results({}, runs).step_ratio(ALL_SCENES, "slow").value, 4.0)


def test_equal_wall_clock_gives_every_method_the_baselines_time(results):
    # adam: 0.5 + 4 x 1 s; in 4.5 s tuned gets through 2 of its steps, the last evaluation is after step 2 at 4.5 s.
    assert results.budget(results.of("fern", "tuned")[0]) == 4.5
    assert results.in_budget("fern", "adam", last("psnr")).value == 14.5
    assert results.in_budget("fern", "adam", last("step")).value == 4
    assert results.in_budget("fern", "tuned", last("psnr")).value == 20.5
    assert results.in_budget("fern", "tuned", last("step")).value == 2
    assert results.in_budget("fox", "tuned", best("psnr")).value == 16
    assert results.in_budget(ALL_SCENES, "tuned", last("psnr")).value == 18.25


def test_without_a_baseline_there_is_no_equal_wall_clock(tmp_path):
    runs = [make_run(tmp_path, status="failed"), make_run(tmp_path, make_spec(method="tuned"))]
    assert Results({}, runs).in_budget("fern", "tuned", last("psnr")).value is None


def test_the_baseline_is_the_first_method_with_its_longest_horizon(tmp_path):
    specs = [make_spec(method=method, horizon=horizon) for method in ("adam", "tuned") for horizon in (20, 500, 100)]
    results = Results({}, [make_run(tmp_path, spec) for spec in specs])
    assert results.methods[:3] == ["adam@20", "adam@500", "adam@100"]
    assert results.baseline == "adam@500"


def test_curves_over_steps_and_over_seconds(results):
    drawn = curve(results, "fern", "adam", "psnr")
    assert drawn["steps"] == [[0, 10, 10, 10], [2, 12, 12, 12], [4, 14.5, 14, 15]]
    assert [point[0] for point in drawn["seconds"]] == [0.5, 2.5, 4.5]
    # Over all scenes: at clock times; 1 and 2 s are reached by every run, 5 s by none.
    assert [point[:2] for point in curve(results, ALL_SCENES, "adam", "psnr")["seconds"]] == [[1, 9], [2, 9]]
