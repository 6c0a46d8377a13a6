"""``l2o eval`` and ``l2o export`` say what is wrong with a run before nerfstudio stumbles over it."""

import json
import re
import shutil

import pytest
import torch

from l2o_splat import cli
from l2o_splat.gaussians import FIELDS
from l2o_splat.plugin.checkpoints import BrokenCheckpointError, checkpoint_path, open_checkpoint
from l2o_splat.plugin.saved_runs import BrokenConfigError, read_config
from l2o_splat.ply import read_ply
from l2o_splat.sharing import read_splat
from tests.plugin.captures import last_checkpoint, method_config, train, write_tiny_capture


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    config = method_config(write_tiny_capture(folder / "capture"), folder / "out", "l2o-adam-tuned", steps=2)
    train(config)
    return config


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, of which a test may break something: its config.yml."""
    folder = tmp_path / trained.get_base_dir().relative_to(trained.output_dir.parent)
    shutil.copytree(trained.get_base_dir(), folder)
    path = folder / "config.yml"
    old, new = ("".join(f"\n- {part}" for part in p.parts[1:]) for p in (trained.output_dir, tmp_path / "out"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def refused(*words) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    message = str(caught.value)
    assert message.startswith("l2o: ") and "\n" not in message, message
    return message


def checkpoint_of(run):
    return max((run.parent / "nerfstudio_models").glob("*.ckpt"))


def test_a_whole_run_is_evaluated_and_exported(run, tmp_path):
    with pytest.raises(SystemExit) as caught:
        cli.main(["eval", "--load-config", str(run), "--output-path", str(tmp_path / "metrics.json")])
    assert not caught.value.code
    results = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert results["psnr"] > 10 and 0 < results["ssim"] < 1
    box = ["--obb-center", "0", "0", "0", "--obb-rotation", "0", "0", "0", "--obb-scale", "9", "9", "9"]
    for words in ([], box):
        with pytest.raises(SystemExit) as caught:
            cli.main(["export", "--load-config", str(run), "--output-dir", str(tmp_path / "exports"), *words])
        assert not caught.value.code
        assert len(read_ply(tmp_path / "exports/splat.ply")) == 60


def test_a_config_that_is_not_there(run):
    assert "does not exist" in refused("eval", "--load-config", run.with_name("other.yml"))
    assert "is a folder; name the config.yml in it" in refused("export", "--load-config", run.parent)


@pytest.mark.parametrize("share", [0, 0.3, 0.7])
def test_a_config_that_is_cut_short(run, share):
    lines = run.read_text().splitlines(keepends=True)
    run.write_text("".join(lines[: int(share * len(lines))]))
    assert "config.yml cannot be used" in refused("eval", "--load-config", run)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1, 2]", "it holds a list"),
        ("a: [", "it is no YAML"),
        ("\0", "it is no YAML"),
        ("!!python/object:nerfstudio.engine.trainer.NoSuchConfig {}", "cannot be built"),
        ("!!python/object:nerfstudio.engine.trainer.TrainerConfig {method_name: x}", "is missing"),
    ],
)
def test_a_config_of_something_else(run, content, expected):
    run.write_text(content)
    assert expected in refused("export", "--load-config", run)


@pytest.mark.parametrize(
    "call",
    [
        "!!python/object/apply:os.system ['touch MARK']",
        "!!python/object/apply:subprocess.run [[touch, MARK]]",
        "!!python/name:os.system",
        "!!python/module:shutil",
        "{a: [!!python/object/new:os.system ['touch MARK']]}",
    ],
)
def test_a_config_that_calls_others_is_not_opened(run, tmp_path, call):
    mark = tmp_path / "mark"
    run.write_text(run.read_text() + f"extra: {call.replace('MARK', str(mark))}\n")
    with pytest.raises(BrokenConfigError, match=r"names (os\.system|subprocess\.run|shutil), which is neither"):
        read_config(run)
    assert not mark.exists()


def test_a_config_of_another_version(run):
    text = run.read_text()
    shortened = re.sub(r"(?ms)^  initialization:.*?^  model:", "  model:", text)
    assert shortened != text
    run.write_text(shortened)
    assert "config.pipeline.initialization is missing" in refused("eval", "--load-config", run)


def test_a_method_that_is_not_installed(run):
    run.write_text(run.read_text().replace("method_name: l2o-adam-tuned", "method_name: of-tomorrow"))
    assert "its method of-tomorrow is not installed" in refused("eval", "--load-config", run)


def test_a_capture_that_was_moved_is_needed_for_evaluation_alone(run, tmp_path):
    text = run.read_text()
    assert text.count("- capture\n") >= 1
    run.write_text(text.replace("- capture\n", "- elsewhere\n"))
    message = refused("eval", "--load-config", run, "--output-path", tmp_path / "metrics.json")
    assert "elsewhere of this run does not exist; put it back" in message and "--data" not in message
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", "--load-config", str(run), "--output-dir", str(tmp_path / "exports")])
    assert not caught.value.code and len(read_ply(tmp_path / "exports/splat.ply")) == 60


def test_a_folder_without_checkpoints(run):
    checkpoint_of(run).unlink()
    assert "holds no checkpoint" in refused("eval", "--load-config", run)
    (run.parent / "nerfstudio_models").rmdir()
    assert "There is no folder" in refused("export", "--load-config", run)


def test_a_file_that_nerfstudio_would_take_for_a_checkpoint(run):
    (run.parent / "nerfstudio_models/.DS_Store").touch()
    assert "holds .DS_Store" in refused("eval", "--load-config", run)


@pytest.mark.parametrize("size", [0, 10, 1000, -1])
def test_a_checkpoint_that_is_cut_short(run, size):
    path = checkpoint_of(run)
    path.write_bytes(path.read_bytes()[:size])
    message = refused("export", "--load-config", run)
    assert f"{path.name} cannot be opened as a checkpoint" in message
    assert "weights_only" not in message


def test_the_checkpoint_before_a_broken_one_is_named(trained, tmp_path):
    shutil.copy(last_checkpoint(trained), tmp_path / "step-000000001.ckpt")
    (tmp_path / "step-000000009.ckpt").write_bytes(b"cut")
    with pytest.raises(BrokenCheckpointError, match="move it away, and step-000000001.ckpt is taken"):
        open_checkpoint(checkpoint_path(tmp_path))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda state: state["pipeline"].pop("_model.gauss_params.quats"), "no Gaussians \\(quats missing"),
        (lambda state: state.pop("pipeline"), "is no checkpoint of a run"),
        (
            lambda state: state["pipeline"].update(
                {f"_model.gauss_params.{f}": state["pipeline"][f"_model.gauss_params.{f}"][:0] for f in FIELDS}
            ),
            "holds 0 means",
        ),
    ],
)
def test_a_checkpoint_without_a_scene(run, edit, expected):
    path = checkpoint_of(run)
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)
    with pytest.raises(BrokenCheckpointError, match=expected):
        open_checkpoint(path)


def test_training_goes_on_from_whole_checkpoints_alone(trained, tmp_path):
    for fault, expected in ((None, "There is no folder"), (b"", "holds no checkpoint"), (b"cut", "cannot be opened")):
        folder = tmp_path / f"of-{fault}"
        if fault is not None:
            folder.mkdir()
        if fault:
            (folder / "step-000000009.ckpt").write_bytes(fault)
        config = method_config(trained.data, tmp_path / "out", "l2o-adam-tuned", steps=2)
        config.load_dir = folder
        with pytest.raises(SystemExit, match=f"^l2o_splat: .*{expected}"):
            train(config)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--obb-center 9 9 9 --obb-rotation 0 0 0 --obb-scale 1 1 1", "holds none of the 60 Gaussians; nine tenths"),
        ("--obb-center 9 9 9 --obb-scale 1 1 1", "--obb-rotation missing; a crop box needs all of"),
        ("--obb-center 0 0 0 --obb-rotation 0 0 0 --obb-scale 1 0 1", "--obb-scale is 1.0 0.0 1.0; three positive"),
        ("--obb-center nan 0 0 --obb-rotation 0 0 0 --obb-scale 1 1 1", "--obb-center is nan 0.0 0.0; three finite"),
        ("--output-filename splat.obj", "is not called *.ply"),
    ],
)
def test_an_export_of_nothing(run, tmp_path, words, expected):
    message = refused("export", "--load-config", run, "--output-dir", tmp_path / "exports", *words.split())
    assert expected in message
    assert not list((tmp_path / "exports").glob("*"))


def test_an_export_of_what_cannot_be_drawn(run, tmp_path):
    path = checkpoint_of(run)
    state = torch.load(path, weights_only=True)
    state["pipeline"]["_model.gauss_params.means"][:3] = float("nan")
    state["pipeline"]["_model.gauss_params.opacities"].fill_(-9.0)
    torch.save(state, path)
    message = refused("export", "--load-config", run, "--output-dir", tmp_path / "exports")
    assert "None of the 60 Gaussians would be exported: 3 hold NaN" in message


def test_outputs_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    for path, expected in (
        ("metrics.txt", "is not called *.json"),
        ("file/metrics.json", "cannot be made"),
        ("folder.json", "is a folder"),
    ):
        assert expected in refused("eval", "--load-config", run, "--output-path", tmp_path / path)


def test_all_formats_of_a_part_of_a_scene(run, tmp_path):
    words = ["--format", "ply", "spz", "sog", "html", "--up", "y", "--sh-degree", "1", "--least-opacity", "0.05"]
    words += ["--seen-in", "2", "--output-filename", "blobs.ply"]
    path = checkpoint_of(run)
    state = torch.load(path, weights_only=True)
    state["pipeline"]["_model.gauss_params.means"][:5] += 100  # which no photograph has seen
    state["pipeline"]["_model.gauss_params.means"][8:] *= 0.5  # into all photographs
    state["pipeline"]["_model.gauss_params.opacities"][:] = 0.0
    state["pipeline"]["_model.gauss_params.opacities"][5:8] = -4.0  # which is an opacity of 0.018
    torch.save(state, path)
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", "--load-config", str(run), "--output-dir", str(tmp_path / "exports"), *words])
    assert not caught.value.code
    scenes = [read_splat(tmp_path / f"exports/blobs.{suffix}") for suffix in ("ply", "spz", "sog")]
    assert [(len(scene), scene.sh_degree) for scene in scenes] == 3 * [(52, 1)]
    assert "52 Gaussians" in (tmp_path / "exports/blobs.html").read_text()
    # nerfstudio turns captures so that z points up on the mean of all photographs, held-out ones included.
    trained = state["pipeline"]["_model.gauss_params.means"][8:]
    upright = trained[:, [0, 2, 1]] * torch.tensor([1.0, 1.0, -1.0])
    torch.testing.assert_close(scenes[0].means, upright, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "--seen-in 8",
            "None of the 60 Gaussians would be exported: none is at least 0.0 opaque and lies in 8 training",
        ),
        ("--least-opacity 2", "--least-opacity is 2.0; a number from 0 to below 1"),
        ("--seen-in -1", "--seen-in is -1; a number of photographs"),
        ("--sh-degree -1", "--sh-degree is -1; 0 or more"),
        ("--ply-color-mode rgb --up y", "--ply-color-mode rgb writes a PLY of points, as trained; leave out"),
        ("--format", "--format names no format"),
    ],
)
def test_an_export_that_makes_no_sense(run, tmp_path, words, expected):
    message = refused("export", "--load-config", run, "--output-dir", tmp_path / "exports", *words.split())
    assert expected in message
    assert not list((tmp_path / "exports").glob("*"))


def test_a_capture_that_was_moved_is_needed_for_what_its_cameras_say(run, tmp_path):
    run.write_text(run.read_text().replace("- capture\n", "- elsewhere\n"))
    for words in (["--up", "y"], ["--format", "html"], ["--seen-in", "2"]):
        message = refused("export", "--load-config", run, "--output-dir", tmp_path / "exports", *words)
        assert "elsewhere of this run does not exist; put it back" in message
    assert not list((tmp_path / "exports").glob("*"))
