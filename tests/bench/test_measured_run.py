"""Real runs of registered methods on the tiny capture, by nerfstudio's own trainer."""

import hashlib
import json
import sys
import time
from collections import defaultdict
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from l2o_splat.bench.command import bench
from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.measures import at_step
from l2o_splat.bench.methods import Method, find_method
from l2o_splat.bench.processes import ask
from l2o_splat.bench.run import Run, run_from_log
from l2o_splat.bench.run_log import LOG_NAME, read_log
from l2o_splat.bench.spec import SweepOptions, plan_runs
from l2o_splat.growth import adc
from l2o_splat.plugin.bench import measured_run
from l2o_splat.plugin.bench import run as bench_run
from l2o_splat.plugin.bench.config import horizons, registered_config, run_config
from l2o_splat.plugin.pipeline import L2OPipeline
from l2o_splat.scenes.capture_names import find_capture
from l2o_splat.schedule.controller import NAMES, Controller
from l2o_splat.weights import save_weights
from l2o_splat.weights.format import WeightsCard
from tests.plugin.captures import method_config, train, write_tiny_capture


@pytest.fixture
def capture(tmp_path):
    return write_tiny_capture(tmp_path / "tiny")


def tiny_spec(capture, method="l2o-adam-tuned", seed=0, horizon=(), **options):
    options = {"steps": 6, "seconds": None, "clock": "wall", "views": "all", "scale": 1.0} | options
    specs = plan_runs(
        [find_capture(str(capture))],
        [find_method(method)],
        defaultdict(lambda: True),
        SweepOptions(**options, seeds=seed + 1, horizons=horizon),
    )
    return specs[-1]


def run(spec, folder, pictures=False) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    bench_run.run(spec, folder, pictures)
    return run_from_log(spec, read_log(folder / LOG_NAME))


@pytest.mark.parametrize("preset", ["plain", "fast"])
def test_watching_a_run_does_not_change_it(capture, tmp_path, preset):
    """The same numbers as ns-train and its own evaluation give."""
    config = method_config(capture, tmp_path / "plain", "l2o-adam-tuned", steps=6)
    config.optimizers["gaussians"]["optimizer"].horizon, config.preset = 6, preset
    config.pipeline.datamanager.views_per_step = registered_config("l2o-adam-tuned").pipeline.datamanager.views_per_step
    expected = train(config).pipeline.get_average_eval_image_metrics()
    watched = run(tiny_spec(capture, f"l2o-adam-tuned --preset {preset}"), tmp_path / "watched")
    assert watched.status == "ok", watched.reason
    assert watched.last.psnr == pytest.approx(expected["psnr"], abs=1e-5)
    assert watched.last.ssim == pytest.approx(expected["ssim"], abs=1e-6)


def test_colours_are_fitted_to_held_out_views_on_request(capture, tmp_path):
    plain = run(tiny_spec(capture), tmp_path / "plain")
    assert plain.last.cc_psnr is None
    fitted = run(tiny_spec(capture, "l2o-adam-tuned --pipeline.model.color-corrected-metrics True"), tmp_path / "cc")
    assert fitted.last.psnr == plain.last.psnr
    assert fitted.last.cc_psnr > fitted.last.psnr


def test_a_run_is_measured_and_the_capture_is_left_alone(capture, tmp_path):
    def contents():
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in capture.rglob("*") if path.is_file()}

    before = contents()
    spec = tiny_spec(capture, "l2o-adam-tuned --preset plain", scale=0.75)
    result = run(spec, tmp_path / "run", pictures=True)
    assert contents() == before
    assert [point.step for point in result.curve if point.step in (0, 1, 2, 4, 6)] == [0, 1, 2, 4, 6]
    assert result.last.psnr > result.curve[0].psnr
    seconds = [point.seconds for point in result.curve]
    assert seconds == sorted(seconds) and seconds[0] == result.initializer_seconds > 0
    other = [point.other_seconds for point in result.curve]
    assert 0 < other[0] < other[-1] and other == sorted(other)
    assert [point.num_gaussians for point in result.curve] == [60] * len(other)
    assert all(0 <= point.needles <= 1 for point in result.curve)
    assert (result.training_views, result.held_out_views, result.num_gaussians, result.steps) == (7, 2, 60, 6)
    assert result.step_seconds["total"] >= max(result.step_seconds[part] for part in ("render", "backward", "update"))
    assert min(result.step_seconds.values()) > 0 and result.peak_memory_mib > 0 and result.loading_seconds > 0
    assert not (tmp_path / "run" / "train").exists()
    pictures = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    assert pictures == [
        f"{view}.{kind}.jpg" for view in ("000-000", "001-008") for kind in ("end", "error", "photograph", "start")
    ]
    with Image.open(tmp_path / "run" / "pictures" / pictures[0]) as picture:
        assert picture.size == (36, 27)


def test_a_slow_start_of_the_scene_is_on_the_clock(capture, tmp_path, monkeypatch):
    start_scene = L2OPipeline.start_scene

    def slow(self, plan, resumes=False):
        time.sleep(2)
        return start_scene(self, plan, resumes)

    monkeypatch.setattr(L2OPipeline, "start_scene", slow)
    result = run(tiny_spec(capture, steps=1), tmp_path / "run")
    assert result.status == "ok", result.reason
    assert result.curve[0].seconds == result.initializer_seconds > 2
    assert result.loading_seconds < 2


def test_a_run_killed_after_its_last_checkpoint_takes_no_further_step(capture, tmp_path, monkeypatch):
    spec = tiny_spec(capture, steps=3)
    with monkeypatch.context() as patch:
        # The trainer has saved its last step by then; the evaluation after it is missing.
        patch.setattr(bench_run.MeasuredRun, "picture", lambda self, when: killed() if when == "end" else None)
        with pytest.raises(KeyboardInterrupt):
            run(spec, tmp_path / "run")
    continued = run(spec, tmp_path / "run")
    assert (continued.status, continued.steps, continued.last.step) == ("ok", 3, 3), continued.reason


def killed():
    raise KeyboardInterrupt


def test_a_run_killed_midway_goes_on_to_the_same_numbers(capture, tmp_path, monkeypatch):
    spec = tiny_spec(capture)
    whole = run(spec, tmp_path / "whole")
    with monkeypatch.context() as patch:
        evaluate = measured_run.MeasuredRun.evaluate

        def killed(self, taken):
            if taken == 4:
                raise KeyboardInterrupt
            evaluate(self, taken)

        patch.setattr(measured_run.MeasuredRun, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(spec, tmp_path / "parts")
    continued = run(spec, tmp_path / "parts")
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "parts" / LOG_NAME).read_text().splitlines()]
    assert kinds.count("start") == kinds.count("resume") == kinds.count("end") == 1
    assert (continued.status, continued.steps) == ("ok", 6)
    for step in (0, 1, 2, 4, 6):
        assert at_step("psnr", step)(continued) == at_step("psnr", step)(whole)


def test_a_budget_of_seconds_ends_a_run(capture, tmp_path):
    result = run(tiny_spec(capture, steps=100_000, seconds=0.7), tmp_path / "run")
    assert result.status == "ok"
    assert 0 < result.steps < 100_000
    assert result.last.seconds <= 0.7 <= result.seconds
    assert result.at_seconds(0.7) == result.last


def test_seeds_change_the_order_of_views(capture):
    configs = [run_config(tiny_spec(capture, seed=seed), capture.parent) for seed in (0, 1)]
    assert [config.pipeline.datamanager.view_seed for config in configs] == [0, 1]
    assert [config.pipeline.initialization.seed for config in configs] == [0, 1]
    assert [config.machine.seed for config in configs] == [0, 1]


def test_sparse_runs_train_on_context_views_alone(tmp_path):
    capture = write_tiny_capture(tmp_path / "wide", num_views=13)
    result = run(tiny_spec(capture, views=3, steps=2), tmp_path / "run")
    assert (result.training_views, result.held_out_views) == (3, 2)


def test_splatfacto_without_cuda_keeps_its_row_with_the_reason(capture, tmp_path, monkeypatch):
    monkeypatch.setattr(measured_run.torch.cuda, "is_available", lambda: False)
    result = run(tiny_spec(capture, "splatfacto"), tmp_path / "run")
    assert result.status == "unavailable"
    assert "splatfacto needs a CUDA device" in result.reason


def test_the_horizon_is_set_wherever_a_method_keeps_one(capture, tmp_path):
    ours = run_config(tiny_spec(capture, horizon=(123,)), tmp_path)
    assert ours.optimizers["gaussians"]["optimizer"].horizon == 123
    theirs = run_config(tiny_spec(capture, "splatfacto", horizon=(123,)), tmp_path)
    assert theirs.optimizers["means"]["scheduler"].max_steps == 123
    assert {attribute for _, attribute in horizons(theirs)} == {"max_steps"}


def test_options_of_ns_train_reach_the_run(capture, tmp_path):
    result = run(
        tiny_spec(capture, "fewer=l2o-adam --pipeline.initialization.num-points 20", steps=1), tmp_path / "run"
    )
    assert (result.method, result.num_gaussians) == ("fewer", 20)


def test_the_rival_with_density_control_of_its_own_grows(capture, tmp_path, monkeypatch):
    monkeypatch.setattr(adc, "FIRST_ITERATION", 8)
    result = run(tiny_spec(capture, "adam-adc", steps=20), tmp_path / "run")
    assert (result.status, result.method, result.steps) == ("ok", "adam-adc", 20), result.reason
    counts = [point.num_gaussians for point in result.curve]
    assert counts[0] == 60 < counts[-1] == result.num_gaussians


def test_a_learned_rule_whose_weights_are_not_there_keeps_its_row_with_the_reason(capture, tmp_path):
    result = run(tiny_spec(capture, "learn2splat --optimizers.gaussians.optimizer.weights nowhere"), tmp_path / "run")
    assert result.status == "unavailable"
    assert "nowhere is neither a file or folder" in result.reason


def test_a_learned_rule_runs(capture, tmp_path):
    result = run(tiny_spec(capture, "learn2splat", steps=2), tmp_path / "run")
    assert (result.status, result.method, result.steps) == ("ok", "learn2splat", 2), result.reason


def test_a_broken_capture_fails_with_its_own_sentence(capture, tmp_path):
    (capture / "images" / "003.png").write_bytes(b"no picture")
    result = run(tiny_spec(capture), tmp_path / "run")
    assert result.status == "failed"
    assert "003.png cannot be read as an image" in result.reason


def test_running_out_of_memory_is_told_apart(capture, tmp_path, monkeypatch):
    def exhausted(self, taken):
        raise bench_run.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(measured_run.MeasuredRun, "evaluate", exhausted)
    result = run(tiny_spec(capture), tmp_path / "run")
    assert (result.status, result.reason) == ("out_of_memory", "CUDA out of memory. Tried to allocate 20 GiB.")


def test_what_nerfstudio_does_not_know_is_refused_before_anything_runs():
    methods = [
        Method("mine", "l2o-adam"),
        Method("no-schedule", "learn2splat"),
        Method("?", "l2o-nonsense"),
        Method("!", "l2o-adam", ("--nonsense", "1")),
    ]
    question = {"methods": [asdict(method) for method in methods], "dataparsers": [["no-such-parser"]]}
    answer = bench_run.describe(question)
    assert answer["has_horizon"] == {"mine": True, "no-schedule": False}
    assert len(answer["errors"]) == 3
    assert "l2o-nonsense is not registered" in answer["errors"][0]
    assert "no such options: --nonsense 1" in answer["errors"][1]
    assert "no-such-parser" in answer["errors"][2]
    fails = (sys.executable, "-c", "import sys; sys.exit('no such module')")
    with pytest.raises(BenchError, match="no such module"):
        ask(methods, [], command=fails)


def test_a_controller_that_looks_at_the_run_makes_a_method_a_learned_one(tmp_path):
    responding = Controller(np.linspace(0.1, 0.2, len(NAMES)))
    for name, controller in {"looks": responding, "constants": responding.frozen()}.items():
        save_weights(tmp_path / name, controller.to_weights(WeightsCard("controller", {"numbers": list(NAMES)})))
    methods = [
        Method(name, "l2o-adam-tuned", ("--schedule.controller", f"{tmp_path / name}.safetensors"))
        for name in ("looks", "constants", "missing")
    ]
    answer = bench_run.describe({"methods": [asdict(method) for method in methods], "dataparsers": []})
    assert answer["kinds"] == {"looks": "learned", "constants": "hand-made"}
    (error,) = answer["errors"]
    assert "missing.safetensors" in error


def test_the_command_gives_the_report_in_one_go(capture, tmp_path, capsys):
    out = tmp_path / "out"
    status = bench((str(capture),), ("l2o-adam",), steps=2, out=out, horizons=(2,))
    output = capsys.readouterr().out
    assert status == 0, output
    assert "1/1" in output and "Report:" in output
    values = json.loads((out / "results.json").read_text())
    (run,) = values["runs"]
    assert (run["scene"], run["method"], run["status"]) == ("tiny", "l2o-adam@2", "ok")
    assert values["environment"]["torch"] and values["environment"]["command"]
    assert "l2o-adam@2" in (out / "report.html").read_text()
    assert {"results.csv", "summary.md"} <= {path.name for path in out.iterdir()}
