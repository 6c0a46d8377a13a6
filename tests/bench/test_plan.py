"""What is run, on which views."""

from dataclasses import replace

import pytest

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.methods import Method, find_method, split_horizon
from l2o_splat.bench.spec import RunSpec, SweepOptions, plan_runs
from l2o_splat.scenes.capture_names import CaptureSource

OPTIONS = {"steps": 100, "seconds": None, "clock": "wall", "views": "all", "scale": 1.0, "seeds": 1, "horizons": ()}


def plan(methods=("adam", "fixed"), **options):
    captures = [CaptureSource(name, ("nerfstudio-data",), f"/{name}") for name in ("fern", "fox")]
    return plan_runs(
        captures,
        [Method(name, name) for name in methods],
        {"adam": True, "fixed": False},
        SweepOptions(**OPTIONS | options),
    )


def test_every_combination_is_run_once():
    specs = plan(seeds=3)
    assert len(specs) == 2 * 2 * 3
    assert len({(spec.scene, spec.method, spec.seed) for spec in specs}) == len(specs)
    assert len({spec.folder_name for spec in specs}) == len(specs)


def test_a_method_with_a_horizon_is_run_once_per_horizon():
    specs = [spec for spec in plan(horizons=(20, 500)) if spec.scene == "fern"]
    assert [(spec.label, spec.horizon, spec.steps) for spec in specs] == [
        ("adam@20", 20, 100),
        ("adam@500", 500, 100),
        ("fixed", 100, 100),
    ]


def test_methods_may_have_options_and_a_name_of_their_own():
    assert find_method("l2o-adam") == Method("l2o-adam", "l2o-adam")
    assert find_method("mine=learn2splat --a.b 'x y' --c=d") == Method("mine", "learn2splat", ("--a.b", "x y", "--c=d"))
    assert find_method("splatfacto --a=b").label == "splatfacto --a=b"
    adc = ("--preset", "adc")
    assert find_method("adam-adc") == Method("adam-adc", "l2o-adam", adc)
    assert find_method("3dgs=adam-adc --a b") == Method("3dgs", "l2o-adam", (*adc, "--a", "b"))
    for nothing in ("", "mine=", "--a b"):
        with pytest.raises(BenchError, match="names no method"):
            find_method(nothing)


def test_a_horizon_can_be_read_off_a_name():
    assert split_horizon("adam@500") == ("adam", 500)
    assert split_horizon("l2s --weights hf://a/b@main") == ("l2s --weights hf://a/b@main", 0)


def test_without_horizons_rates_decay_over_the_run():
    assert {(spec.label, spec.horizon) for spec in plan()} == {("adam", 100), ("fixed", 100)}


def test_listed_steps_and_times_are_evaluated():
    (spec, *_) = plan(steps=120, seconds=10.5)
    assert spec.reported_steps == (0, 1, 2, 4, 10, 20, 50, 100, 120)
    assert spec.evaluated_steps >= set(spec.reported_steps)
    assert max(spec.evaluated_steps) == 120
    assert spec.evaluated_seconds == (1, 2, 5, 10, 10.5)


def test_specs_survive_being_written(tmp_path):
    (spec, *_) = plan(seconds=2.5, views=8)
    spec.write(tmp_path / "spec.json")
    assert RunSpec.read(tmp_path / "spec.json") == spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps is 0"),
        ({"seconds": 0.0}, "--seconds is 0.0"),
        ({"views": 1}, "--views is 1"),
        ({"scale": 2.0}, "--scale is 2.0"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"horizons": (0,)}, "--horizons"),
        ({"horizons": (5, 5)}, "twice"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(BenchError, match=message):
        plan(**options)


def test_two_captures_of_one_name_are_refused():
    captures = [CaptureSource("fern", (), "/a/fern"), CaptureSource("fern", (), "/b/fern")]
    with pytest.raises(BenchError, match="called fern"):
        plan_runs(captures, [Method("adam", "adam")], {"adam": True}, SweepOptions(**OPTIONS))


def test_a_run_can_be_evaluated_at_every_second(tmp_path):
    (spec, *_) = plan(steps=120, seconds=4.0)
    often = replace(spec, evaluated_every=0.5)
    assert often.evaluated_seconds == (0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4)
    assert often.folder_name != spec.folder_name
    often.write(tmp_path / "spec.json")
    assert RunSpec.read(tmp_path / "spec.json") == often
