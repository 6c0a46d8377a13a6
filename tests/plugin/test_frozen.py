"""Runs that an earlier version saved evaluate, export and resume as they did then.

Their ``config.yml`` names classes of ours by module path, and their checkpoints hold state in the names of then.
``frozen/README.md`` says how they were made.
"""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.registry import discover_methods
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.utils.eval_utils import eval_setup
from plyfile import PlyData

from l2o_splat.gaussians import FIELDS
from tests.plugin.captures import train

FROZEN = Path(__file__).parent / "frozen"
RUNS = ["l2o-adam-tuned", "learn2splat", "resplat", "diff3r"]
RESUMABLE = ["l2o-adam-tuned", "learn2splat", "diff3r"]
STEPS = 2
"""Steps of a resumed run."""


@pytest.fixture(scope="module", autouse=True)
def captures_in_a_temporary_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L2O_SPLAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def recorded(name: str) -> dict:
    """Numbers of the version that saved the run."""
    return json.loads((FROZEN / name / "recorded.json").read_text())


def restore(name: str, folder: Path) -> Path:
    """Put a run where its ``config.yml``, which is returned, says that it is."""
    run = folder / "demo" / name / "run"
    (run / "nerfstudio_models").mkdir(parents=True)
    for checkpoint in (FROZEN / name).glob("*.ckpt"):
        shutil.copy(checkpoint, run / "nerfstudio_models")
    saved = (FROZEN / name / "config.yml").read_text()
    assert saved.count("OUTPUT_DIR") == 1
    (run / "config.yml").write_text(saved.replace("OUTPUT_DIR", str(folder)))
    return run / "config.yml"


def saved_config(config: Path, output_dir: Path) -> TrainerConfig:
    """As ``ns-train METHOD --load-config CONFIG`` takes it, to go on from the run's checkpoint."""
    loaded = yaml.load(config.read_text(), Loader=yaml.Loader)
    loaded.load_dir = loaded.get_checkpoint_dir()
    loaded.output_dir, loaded.max_num_iterations = output_dir, STEPS
    return loaded


def registered_config(config: Path, output_dir: Path) -> TrainerConfig:
    """The method as it is now, with the options that the run had, to go on from the run's checkpoint."""
    saved = saved_config(config, output_dir)
    now = deepcopy(discover_methods()[0][saved.method_name])
    now.pipeline.datamanager.dataparser = saved.pipeline.datamanager.dataparser
    for name in ("source", "num_points"):
        setattr(now.pipeline.initialization, name, getattr(saved.pipeline.initialization, name))
    now.pipeline.initialization.context.num_views = saved.pipeline.initialization.context.num_views
    for name in ("experiment_name", "timestamp", "vis", "machine", "logging", "load_dir", "output_dir"):
        setattr(now, name, getattr(saved, name))
    now.max_num_iterations = STEPS
    return now


def resume(config: TrainerConfig) -> dict[str, float]:
    """Take some steps; the held-out quality, and the sum of absolute values of every field."""
    trainer = train(config)
    sums = {
        name: float(value.detach().double().abs().sum()) for name, value in trainer.pipeline.model.gaussians.items()
    }
    return {"step": trainer.step, "psnr": trainer.pipeline.get_average_eval_image_metrics()["psnr"]} | sums


@pytest.mark.parametrize("name", RUNS)
def test_a_saved_run_evaluates_as_it_did(name, tmp_path):
    _, pipeline, _, step = eval_setup(restore(name, tmp_path))
    expected = recorded(name)
    assert step == expected["step"]
    assert pipeline.get_average_eval_image_metrics()["psnr"] == pytest.approx(expected["psnr"], abs=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_a_saved_run_is_exported(name, tmp_path):
    config = restore(name, tmp_path)
    ExportGaussianSplat(load_config=config, output_dir=tmp_path / "ply").main()
    (checkpoint,) = (config.parent / "nerfstudio_models").iterdir()
    means = torch.load(checkpoint, weights_only=True)["pipeline"]["_model.gauss_params.means"]
    vertices = PlyData.read(tmp_path / "ply/splat.ply")["vertex"]
    assert np.array_equal(np.stack([vertices[axis] for axis in "xyz"], axis=1), means.numpy())


@pytest.mark.parametrize("configure", [saved_config, registered_config])
def test_a_run_with_weights_of_the_package_that_have_changed_ends_with_a_sentence(configure, tmp_path):
    """resplat-mini was trained again; its updates of then would be others now."""
    with pytest.raises(SystemExit, match=r"trained with rule \[resplat weights .*resume with the same rule, weights"):
        resume(configure(restore("resplat", tmp_path / "saved"), tmp_path / "resumed"))


@pytest.mark.parametrize("name", RESUMABLE)
@pytest.mark.parametrize("configure", [saved_config, registered_config])
def test_a_saved_run_is_resumed(name, configure, tmp_path):
    resumed = resume(configure(restore(name, tmp_path / "saved"), tmp_path / "resumed"))
    expected = recorded(name)["resumed"]
    assert resumed["step"] == expected["step"]
    assert resumed["psnr"] == pytest.approx(expected["psnr"], abs=1e-4)
    assert [resumed[field] for field in FIELDS] == pytest.approx([expected[field] for field in FIELDS], rel=1e-5)
