"""Scenes of other programs beside the methods."""

import json
from pathlib import Path

import pytest

from l2o_splat.bench.command import bench
from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.ply import find_ply
from l2o_splat.bench.results import read_results
from l2o_splat.bench.run import run_from_log
from l2o_splat.bench.run_log import LOG_NAME, read_log
from l2o_splat.bench.spec import RunSpec, SweepOptions, plan_runs
from l2o_splat.growth.needles import share_of_needles
from l2o_splat.plugin.bench import run as bench_run
from l2o_splat.plugin.capture_frames import possible_frames
from l2o_splat.ply import write_ply
from l2o_splat.scenes.capture_names import find_capture
from tests.bench.in_process import bench_in_this_process
from tests.plugin.captures import method_config, train, write_tiny_capture
from tests.rendering.scenes import random_scene

FRAMES = ("dataparser", "capture", "transforms")

APPLIED = [[1.0, 0.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, -2.0]]
"""From the original coordinates of the capture to those of its file."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A capture, the quality of a short run of nerfstudio's trainer on it, and its scene in every frame."""
    folder = tmp_path_factory.mktemp("ply")
    capture = write_tiny_capture(folder / "tiny")
    transforms = capture / "transforms.json"
    transforms.write_text(json.dumps(json.loads(transforms.read_text()) | {"applied_transform": APPLIED}))
    pipeline = train(method_config(capture, folder / "out", "l2o-adam-tuned", steps=30)).pipeline
    quality = pipeline.get_average_eval_image_metrics()
    frames = possible_frames(pipeline.datamanager, str(capture))
    assert tuple(frames) == FRAMES
    for name, frame in frames.items():
        write_ply(frame.to_world(pipeline.model.gaussians.detach()), folder / f"{name}.ply")
    return capture, folder, quality, pipeline.model.gaussians.detach()


def measure(capture: Path, file: Path, frame: str, folder: Path, pictures: bool = False):
    options = SweepOptions(5, None, "wall", "all", 1.0, 1, ())
    (spec,) = plan_runs([find_capture(str(capture))], [], {}, options, dict([find_ply(f"other={file}", frame)]))
    spec.write(folder / "spec.json")
    assert RunSpec.read(folder / "spec.json") == spec
    bench_run.run(spec, folder, pictures)
    log = read_log(folder / LOG_NAME)
    return run_from_log(spec, log), log.start


@pytest.mark.parametrize("name", FRAMES)
def test_a_scene_counts_the_same_in_every_frame_and_the_frame_is_found(trained, tmp_path, name):
    capture, folder, quality, gaussians = trained
    run, start = measure(capture, folder / f"{name}.ply", "detect", tmp_path, pictures=name == "capture")
    assert run.status == "ok", run.reason
    assert start["ply_frame"] == name
    assert (run.method, run.steps, run.num_gaussians, run.held_out_views) == ("other", 0, len(gaussians), 2)
    assert run.last.psnr == pytest.approx(quality["psnr"], abs=1e-3)
    assert run.last.ssim == pytest.approx(quality["ssim"], abs=1e-4)
    assert (tmp_path / "pictures").exists() == (name == "capture")


def test_a_frame_that_is_named_is_taken(trained, tmp_path):
    capture, folder, quality, _ = trained
    run, start = measure(capture, folder / "capture.ply", "dataparser", tmp_path)
    assert (run.status, start["ply_frame"]) == ("ok", "dataparser")
    assert run.last.psnr < quality["psnr"] - 1


def test_a_scene_of_another_capture_is_refused(trained, tmp_path):
    scene, _ = random_scene(n=30)
    write_ply(scene, tmp_path / "other.ply")
    run, _ = measure(trained[0], tmp_path / "other.ply", "detect", tmp_path)
    assert run.status == "failed"
    assert "no better than their mean colour" in run.reason and run.reason.count(". ") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.ply", "is not NAME=FILE"),
        ("x=nowhere.ply", r"nowhere\.ply cannot be read \(No such file"),
        ("x=.", "cannot be read"),
        ("x=text.ply", r"text\.ply cannot be read as a PLY with vertices"),
        ("x=points.ply", r"points\.ply is no Gaussian splat: its vertices lack scale_0"),
    ],
)
def test_what_is_no_splat_is_refused_before_anything_runs(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("text.ply").write_text("no PLY")
    header = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
    Path("points.ply").write_text(header + "end_header\n0 0 0\n")
    with pytest.raises(BenchError, match=message):
        find_ply(text, "detect")


def test_a_scene_belongs_to_one_capture_and_needs_its_own_name(trained, tmp_path, monkeypatch):
    capture, folder, _, _ = trained
    monkeypatch.setattr("l2o_splat.bench.command.ask", None)  # It takes ten seconds, and is not needed for that.
    entry = f"x={folder / 'capture.ply'}"
    with pytest.raises(SystemExit, match="--ply x is a scene of one capture, and --data names 2"):
        bench((str(capture), "l2o-demo:1"), ("l2o-adam",), steps=1, out=tmp_path, ply=(entry,))
    with pytest.raises(SystemExit, match="--ply names x twice"):
        bench((str(capture),), ("l2o-adam",), steps=1, out=tmp_path, ply=(entry, entry))


def test_the_command_measures_scenes_without_methods(trained, tmp_path, capsys, monkeypatch):
    bench_in_this_process(monkeypatch)
    capture, folder, quality, gaussians = trained
    entry = f"other={folder / 'capture.ply'}"
    status = bench((str(capture),), (), out=tmp_path, ply=(entry,), images=False)
    assert status == 0, capsys.readouterr().out
    results = read_results(tmp_path)
    assert results.methods == ["other"]
    (other,) = results.of("tiny", "other")
    assert other.last.psnr == pytest.approx(quality["psnr"], abs=1e-3)
    assert results.in_budget("tiny", "other", lambda run: run.last.psnr).value is None
    summary = (tmp_path / "summary.md").read_text()
    assert f"{len(gaussians)}" in summary and "| other |" in summary
    assert other.last.needles == share_of_needles(gaussians)
