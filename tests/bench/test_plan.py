"""What is run, on which views."""

import numpy as np
import pytest

from l2o_splat.bench.captures import Capture, find_capture
from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.methods import Method, find_method, split_horizon
from l2o_splat.bench.spec import RunSpec, SweepOptions, plan_runs
from l2o_splat.bench.split import split_views

OPTIONS = {"steps": 100, "seconds": None, "views": "all", "scale": 1.0, "seeds": 1, "horizons": ()}


def plan(methods=("adam", "fixed"), **options):
    captures = [Capture(name, ("nerfstudio-data",), f"/{name}") for name in ("fern", "fox")]
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
    assert spec.evaluated_seconds == (1, 3, 10, 10.5)


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
    captures = [Capture("fern", (), "/a/fern"), Capture("fern", (), "/b/fern")]
    with pytest.raises(BenchError, match="called fern"):
        plan_runs(captures, [Method("adam", "adam")], {"adam": True}, SweepOptions(**OPTIONS))


def test_captures_are_recognised_by_their_files(tmp_path):
    for folder, file in (
        ("ours", "transforms.json"),
        ("model", "sparse/0/cameras.bin"),
        ("blender", "transforms_train.json"),
    ):
        (tmp_path / folder / file).parent.mkdir(parents=True)
        (tmp_path / folder / file).touch()
    ours = find_capture(str(tmp_path / "ours"))
    assert (ours.scene, ours.dataparser[0], ours.data) == ("ours", "nerfstudio-data", str(tmp_path / "ours"))
    assert find_capture(str(tmp_path / "model")).dataparser == ("colmap", "--colmap-path", "sparse/0")
    assert find_capture(str(tmp_path / "blender")).dataparser == ("blender-data",)
    assert find_capture(str(tmp_path / "ours"), "scannet-data --scale-factor 2").dataparser == (
        "scannet-data",
        "--scale-factor",
        "2",
    )
    (tmp_path / "photos").mkdir()
    with pytest.raises(BenchError, match="l2o photos"):
        find_capture(str(tmp_path / "photos"))
    with pytest.raises(BenchError, match="is no folder"):
        find_capture(str(tmp_path / "nothing"))


def test_procedural_captures_have_a_name_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_capture("l2o-demo:3") == Capture("l2o-demo:3", ("l2o-demo", "--seed", "3"), None)
    assert find_capture("l2o-demo").dataparser == ("l2o-demo", "--seed", "0")


def test_dense_holds_out_every_eighth_view():
    training, held_out = split_views(np.zeros((20, 3)), "all")
    assert held_out == [0, 8, 16]
    assert sorted(training + held_out) == list(range(20))


def test_sparse_takes_farthest_context_views_and_targets_between_them():
    line = np.zeros((13, 3))
    line[:, 0] = range(13)
    # Ends first, then the middle; between each pair the view in the middle.
    assert split_views(line, 3) == ([0, 6, 12], [3, 9])
    assert split_views(line, 2) == ([0, 12], [6])


@pytest.mark.parametrize(("count", "views"), [(5, 5), (2, "all"), (4, 3)])
def test_a_split_that_leaves_nothing_is_refused(count, views):
    centres = np.zeros((count, 3))
    centres[:, 0] = [0, 3, 2, 1, 4][:count]
    with pytest.raises(BenchError):
        split_views(centres, views)
