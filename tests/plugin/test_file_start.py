"""The source ``file`` of ``--pipeline.initialization.source``: scenes of other programs, in the frames they come in."""

import json
from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import FIELDS
from l2o_splat.metrics import psnr
from l2o_splat.plugin.capture_frames import possible_frames
from l2o_splat.plugin.export import export
from l2o_splat.plugin.export_options import Selection
from l2o_splat.ply import read_ply, write_ply
from l2o_splat.scene import SceneStart
from l2o_splat.scene_file import read_scene, write_scene
from tests.plugin.captures import last_checkpoint, method_config, train, write_tiny_capture
from tests.plugin.console import printed, refuse

APPLIED = [[1.0, 0.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, -2.0]]
"""From the original coordinates of the capture to those of its file."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A capture, a trained scene in the files of ``l2o export`` and in its original frame, and its first eval image."""
    folder = tmp_path_factory.mktemp("start")
    capture = write_tiny_capture(folder / "tiny")
    transforms = capture / "transforms.json"
    transforms.write_text(json.dumps(json.loads(transforms.read_text()) | {"applied_transform": APPLIED}))
    config = method_config(capture, folder / "out", "l2o-adam-tuned", steps=12)
    pipeline = train(config).pipeline
    gaussians = pipeline.model.gaussians.detach()
    paths = [folder / "scene.ply", folder / "scene.safetensors"]
    selection = Selection(None, 0.0, 0, None)
    export(config.get_base_dir() / "config.yml", gaussians, selection, "as-trained", paths, "tiny")
    original = possible_frames(pipeline.datamanager, capture)["capture"].to_world(gaussians.to(torch.float64))
    write_ply(original, folder / "original.ply")
    write_scene(folder / "original.safetensors", original)
    return capture, folder, first_image(pipeline), gaussians


def first_image(pipeline):
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    return pipeline.model.get_outputs_for_camera(camera)["rgb"].detach()


def file_config(capture, output, file, method="l2o-adam-tuned", steps=2, **options):
    config = method_config(capture, output, method, steps)
    config.pipeline.initialization.source, config.pipeline.initialization.file = "file", file
    for name, value in options.items():
        setattr(config.pipeline.initialization, name, value)
    return config


def started(config):
    """The pipeline before its first step."""
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer.pipeline


@pytest.mark.parametrize(
    ("name", "frame", "found"),
    [
        ("scene.ply", "detect", "dataparser"),
        ("scene.safetensors", "dataparser", "dataparser"),
        ("original.ply", "capture", "capture"),
        ("original.safetensors", "detect", "capture"),
    ],
)
def test_a_scene_of_a_file_starts_with_the_image_it_was_saved_with(finished, tmp_path, capsys, name, frame, found):
    capture, folder, image, _ = finished
    pipeline = started(file_config(capture, tmp_path, folder / name, frame=frame))
    assert f"{name} is in the frame {found}; 100% of its Gaussians" in printed(capsys)
    assert pipeline.model.gaussians.features_rest.any()  # Otherwise harmonics need no turning.
    assert psnr(first_image(pipeline), image) > 70


@pytest.mark.parametrize("method", ["l2o-adam", "l2o-adam-tuned", "learn2splat", "resplat", "diff3r"])
def test_every_rule_goes_on_from_a_file(finished, tmp_path, capsys, method):
    capture, folder, _, start = finished
    trainer = train(file_config(capture, tmp_path, folder / "original.ply", method))
    now = trainer.pipeline.model.gaussians.detach()
    assert now.all_finite() and len(now) == len(start)
    assert not torch.allclose(now.features_dc, start.features_dc, atol=1e-6)
    assert torch.allclose(now.means, start.means, atol=0.3)
    assert ("Heuristic precision" in printed(capsys)) == (method == "diff3r")


@pytest.mark.parametrize("method", ["l2o-adam-tuned", "diff3r"])
def test_a_run_from_a_file_resumes_bit_for_bit_without_it(finished, tmp_path, method):
    capture, folder, *_ = finished
    file = tmp_path / "start.ply"
    file.write_bytes((folder / "original.ply").read_bytes())
    whole = train(file_config(capture, tmp_path / "whole", file, method, steps=4))
    first = file_config(capture, tmp_path / "parts", file, method, steps=2)
    train(first)
    file.unlink()
    rest = file_config(capture, tmp_path / "parts", file, method, steps=2)
    rest.load_dir, rest.load_step = last_checkpoint(first).parent, None
    resumed = train(rest)
    for name in FIELDS:
        pair = (getattr(run.pipeline.model.gaussians, name) for run in (whole, resumed))
        assert torch.equal(*pair), name


def test_scenes_from_files_grow(finished, tmp_path):
    capture, folder, *_ = finished
    config = file_config(capture, tmp_path, folder / "scene.ply", steps=40)
    config.preset, config.schedule.growth = "fast", 1.5
    grown = train(config).pipeline.model.gaussians
    assert len(grown) > len(read_ply(folder / "scene.ply"))


def test_features_of_a_file_seed_the_latent_state(finished, tmp_path, capsys):
    """A rule takes features of its width, and a run says so if there is none that does."""
    capture, folder, *_ = finished
    scene = read_scene(folder / "scene.safetensors").gaussians
    write_scene(tmp_path / "odd.safetensors", SceneStart(scene, torch.zeros(len(scene), 3)))
    started(file_config(capture, tmp_path / "odd", tmp_path / "odd.safetensors", "resplat"))
    assert "No rule of this run takes features of width 3" in printed(capsys)
    features = torch.randn(len(scene), 64, generator=torch.Generator().manual_seed(0))
    write_scene(tmp_path / "fits.safetensors", SceneStart(scene, features))
    config = file_config(capture, tmp_path / "fits", tmp_path / "fits.safetensors", "resplat", steps=1)
    with_features = train(config).pipeline.model.gaussians
    without = train(file_config(capture, tmp_path / "none", folder / "scene.safetensors", "resplat", steps=1))
    assert "No rule of this run" not in printed(capsys)
    assert with_features.all_finite()
    assert not torch.equal(with_features.means, without.pipeline.model.gaussians.means)


def test_the_degree_of_the_run_is_taken(finished, tmp_path, capsys):
    capture, folder, *_ = finished
    scene = read_ply(folder / "scene.ply")
    flat = replace(scene, features_rest=scene.features_rest[:, :0])
    write_ply(flat, tmp_path / "flat.ply")
    found = started(file_config(capture, tmp_path / "more", tmp_path / "flat.ply")).model.gaussians
    assert found.sh_degree == 3 and not found.features_rest.any()
    config = file_config(capture, tmp_path / "fewer", folder / "scene.ply")
    config.pipeline.model.sh_degree = 1
    found = started(config).model.gaussians
    assert torch.equal(found.features_rest, scene.features_rest[:, :3])
    assert "scene.ply has SH degree 3, and the run 1" in printed(capsys)


def changed(scene, **fields):
    return replace(scene, **{name: change(getattr(scene, name).clone()) for name, change in fields.items()})


def far_away(means):
    return means + 1e4


def test_scenes_that_no_photograph_shows_are_refused(finished, tmp_path):
    capture, folder, *_ = finished
    scene = read_ply(folder / "scene.ply")
    write_ply(changed(scene, means=far_away), tmp_path / "far.ply")
    for frame, message in (
        ("dataparser", "None of the .* Gaussians of .*far.ply lies in a training photograph"),
        ("detect", "far.ply shows the training photographs no better than their mean colour"),
    ):
        refuse(file_config(capture, tmp_path / frame, tmp_path / "far.ply", frame=frame), message)


def test_numbers_that_are_not_finite_are_refused(finished, tmp_path):
    capture, folder, *_ = finished
    content = (folder / "scene.ply").read_bytes()
    (tmp_path / "nan.ply").write_bytes(content[:-4] + b"\x00\x00\xc0\x7f")
    refuse(file_config(capture, tmp_path / "out", tmp_path / "nan.ply"), r"NaN or infinite numbers \(1 in quats\)")


def test_files_and_options_that_do_not_fit_are_refused_before_the_capture_is_read(finished, tmp_path):
    _, folder, *_ = finished
    nowhere = tmp_path / "no capture"
    for options, message in (
        ({"file": None}, "source is file and --pipeline.initialization.file names none"),
        ({"file": tmp_path / "scene.ply"}, "There is no file .*scene.ply"),
        ({"file": folder / "scene.obj"}, "scene.obj, whose name tells no format"),
        ({"file": folder / "scene.ply", "num_points": 5}, "num-points is 5 and pad False, but a file brings its own"),
        ({"file": folder / "scene.ply", "source": "sfm"}, "source is sfm, which reads none"),
        ({"file": folder / "scene.ply", "weights": "resplat-mini"}, "source is file, which needs none"),
    ):
        config = file_config(nowhere, tmp_path / "out", None)
        for name, value in options.items():
            setattr(config.pipeline.initialization, name, value)
        refuse(config, message)
