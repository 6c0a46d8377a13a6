"""The presets of `l2o train-initializer` against the tables of the papers."""

import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest
import tyro

from l2o_splat.commands.presets import parse_with_preset
from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.presets import Preset
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.nets.resplat.layouts import LAYOUTS
from l2o_splat.training.errors import TrainingError
from l2o_splat.weights.catalogue import CATALOGUE

# ReSplat (arXiv 2510.08575) and its scripts: iterations and batch of the two stages, whether the first starts from a
# depth network, targets, frame gap and its start, updates of a step, context views, height and width.
RESPLAT = {
    "small-8v-256x448": ((100_000, 2), (100_000, 1), True, 6, (24, 45), (20, 30), (1, 4), 8, (256, 448)),
    "base-8v-256x448": ((50_000, 2), (30_000, 1), True, 6, (24, 45), (20, 30), (1, 4), 8, (256, 448)),
    "large-8v-256x448": ((50_000, 2), None, True, 6, (24, 45), (20, 30), None, 8, (256, 448)),
    "base-16v-256x448": ((50_000, 2), (30_000, 1), False, 6, (50, 80), (40, 60), (1, 4), 16, (256, 448)),
    "base-32v-256x448": ((50_000, 1), (30_000, 1), False, 8, (120, 170), (80, 120), (1, 4), 32, (256, 448)),
    "base-8v-512x960": ((50_000, 1), (30_000, 1), False, 6, (30, 60), (24, 40), (1, 4), 8, (512, 960)),
    "base-16v-540x960": ((50_000, 1), (30_000, 1), False, 8, (150, 350), (100, 200), (2, 2), 16, (512, 960)),
    "base-re10k-2v-256x256": ((200_000, 8), (100_000, 2), True, 4, (45, 135), (25, 45), (2, 2), 2, (256, 256)),
}
STAGES = ("initial", "update")
IN_32 = {("initial", "large-8v-256x448"), ("initial", "base-32v-256x448")}
"""Stages with 32 processes; the small layout had 4, all others 16."""


def parse(*words: str) -> TrainInitializer:
    return parse_with_preset(TrainInitializer, "l2o train-initializer", ["--out", "run", *words])


def test_there_is_a_preset_for_every_released_layout():
    assert set(get_args(Preset)) == {"mini", "dense", "paper-diff3r", *(f"paper-{name}" for name in LAYOUTS)}
    assert RESPLAT.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", RESPLAT)
@pytest.mark.parametrize("stage", STAGES)
def test_resplat(name, stage):
    initial, update, from_depth, targets, gap, first_gap, steps, views, size = RESPLAT[name]
    numbers = initial if stage == "initial" else update
    if numbers is None:
        with pytest.raises(TrainingError, match="have no update; train their initial stage"):
            parse("--preset", f"paper-{name}", "--stage", stage).run()
        return
    found = parse("--preset", f"paper-{name}", "--stage", stage)
    training, batch, losses = found.training, found.training.batch, found.losses
    assert (training.iterations, training.scenes_per_iteration) == numbers
    fresh = stage == "initial" and from_depth
    assert training.learning_rate == (2e-4 if fresh else 1e-4)
    rates = {("initial", True): 2e-6, ("initial", False): 1e-6}
    assert training.backbone_learning_rate == rates.get((stage, from_depth))
    assert (training.weight_decay, training.warm_up, training.clip_norm) == (0.01, 0.01, 0.5)
    assert training.averaging == 0.0
    assert (batch.flip_probability, batch.turn_probability, batch.recolour_probability) == (0.5, 0.0, 0.0)
    assert (batch.context_views, batch.target_views, batch.image_size) == ((views, views), targets, size)
    chunks = found.data.chunks
    assert (chunks.size, chunks.context_views, chunks.target_views) == (size, views, targets)
    assert (chunks.gap, chunks.start_gap, chunks.sampler) == (gap, first_gap, "bounded")
    processes = 4 if "small" in name else 32 if (stage, name) in IN_32 else 16
    assert chunks.warm_up == (30_000 if "re10k" in name else 10_000) * numbers[1] * processes
    assert found.behaviour.context_views == views == found.validation_views
    assert found.shape == LAYOUTS[name].shape
    images, depth = losses.images, losses.depth
    assert (images.ssim_weight, images.perceptual_weight, images.relative) == (0.0, 0.5, False)
    assert (losses.context_share, losses.growth, losses.mean_over_updates) == (0.0, 0.9, False)
    assert (depth.regression, depth.classification, depth.smoothness) == (0.0, 0.0, 0.01)
    if stage == "update":
        assert found.steps == steps and found.start == ("resplat",) and not found.train_error_features
        assert found.behaviour.world == "middle_view"
    else:
        assert found.behaviour.world == "raw"
        assert (found.depth_weights is not None) == from_depth and (found.weights is None) == from_depth


def test_what_sets_the_largest_layout_apart():
    found = parse("--preset", "paper-base-16v-540x960")
    assert found.behaviour == ReSplatConfig(
        scale_max=3.0,
        half_resolution_depth=True,
        longer_side=960,
        fit="enlarge",
        iterations=2,
        context_views=16,
        world="raw",
    )


def test_every_weight_that_a_preset_starts_from_is_in_the_catalogue():
    names = {
        getattr(found, field)
        for found in (TrainInitializer.of_preset(name, stage=stage) for name in get_args(Preset) for stage in STAGES)
        for field in ("weights", "depth_weights", "update_weights")
    }
    assert "resplat-depth-base-352x640" in names and names - {None} <= CATALOGUE.keys()
    # The first stage for 16 views goes on from that for 8, and its second one with the update of that.
    assert parse("--preset", "paper-base-16v-256x448").weights == "resplat-base-dl3dv-256x448-view8"
    second = parse("--preset", "paper-base-16v-256x448", "--stage=update")
    assert second.update_weights == "resplat-base-dl3dv-256x448-view8" and second.weights is None


def test_diff3r():
    found = parse("--preset", "paper-diff3r")
    refinement, training, batch = found.refinement, found.training, found.training.batch
    assert found.through_optimization and refinement.train_initial
    assert batch.context_views == (2, 4) and batch.target_views == 4
    assert refinement.first_share == 0.1
    assert (refinement.error, refinement.lpips_weight) == ("mse", 0.05)
    assert (refinement.steps, refinement.drawn) == ((10, 50), "uniform")
    assert refinement.backward is BackwardMode.IMPLICIT_DAMPED and refinement.solver_iterations == 16
    assert (training.learning_rate, training.backbone_learning_rate, training.clip_norm) == (1e-4, 1e-5, 0.5)
    faults = refinement.faults
    assert (faults.exposure_probability, faults.exposure) == (0.3, (0.8, 1.2))
    assert faults.shake_probability == faults.passer_by_probability == 0
    assert faults.exposure_offset == 0.2


def test_options_go_before_the_values_of_a_preset():
    found = parse("--preset", "paper-small-8v-256x448", "--training.iterations", "10", "--depth-weights", "None")
    assert found.training.iterations == 10 and found.depth_weights is None
    assert found.training.learning_rate == 2e-4
    assert parse() == replace(parse("--preset", "mini")) == TrainInitializer(found.out)
    for words in (("--preset", "paper-tiny"), ("--preset", "paper-diff3r", "--stage", "third")):
        with pytest.raises(SystemExit):
            parse(*words)
    for name in ("tiny", "paper-tiny", "base-8v-256x448"):
        with pytest.raises(KeyError):
            TrainInitializer.of_preset(name)
    assert TrainInitializer.of_preset("mini").out is tyro.MISSING


def test_presets_load_no_torch():
    code = """
import sys
from typing import get_args
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.presets import Preset
for name in get_args(Preset):
    TrainInitializer.of_preset(name, stage="update")
print("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
