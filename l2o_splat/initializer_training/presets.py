"""Presets of ``l2o train-initializer``: our small trainings, and those of ReSplat and DIFF3R. They load no torch.

The numbers of ReSplat (arXiv 2510.08575) are those of its paper and of its published training scripts. Those of DIFF3R
(arXiv 2604.01030) are a recommendation where the paper gives none: see docs/train-initializers.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from l2o_splat.initializer_training.data import SceneData, SceneOptions
from l2o_splat.initializer_training.options import (
    BatchOptions,
    DepthLossWeights,
    FaultOptions,
    InitializerTrainingOptions,
    Losses,
    RefinementOptions,
    Stage,
)
from l2o_splat.nets.resplat.layouts import LAYOUTS
from l2o_splat.training.chunk_options import ChunkOptions
from l2o_splat.training.objective import Objective
from l2o_splat.training.options import Schedule

Preset = Literal[
    "mini",
    "dense",
    "paper-small-8v-256x448",
    "paper-base-8v-256x448",
    "paper-large-8v-256x448",
    "paper-base-16v-256x448",
    "paper-base-32v-256x448",
    "paper-base-8v-512x960",
    "paper-base-16v-540x960",
    "paper-base-re10k-2v-256x256",
    "paper-diff3r",
]
PREFIX = "paper-"
"""What the name of a preset has before that of a layout."""
DIFF3R = "paper-diff3r"
DENSE = "dense"


@dataclass(frozen=True)
class StageNumbers:
    """How one stage of a released network was trained."""

    iterations: int
    batch: int
    """Scenes of one step in each process."""
    processes: int = 16
    """GPUs of the original; an option of its own here, ``--devices`` times ``--nodes``."""
    learning_rate: float = 1e-4
    backbone_learning_rate: float | None = None
    steps: tuple[int, int] = (1, 4)
    """Fewest and most updates, drawn uniformly; of the update stage."""
    depth_weights: str | None = None
    weights: str | None = None
    update_weights: str | None = None
    """What it starts from, by the name in the catalogue of weights."""


@dataclass(frozen=True)
class Recipe:
    """How a released network was trained."""

    initial: StageNumbers
    update: StageNumbers | None
    targets: int
    """Target views per step."""
    frame_gap: tuple[int, int]
    first_frame_gap: tuple[int, int]
    frame_gap_warm_up: int = 10_000
    """Steps over which the gap grows from ``first_frame_gap`` to ``frame_gap``."""
    perceptual_scale: float = 1.0


def _fresh(iterations: int, batch: int, size: str, processes: int = 16) -> StageNumbers:
    """A first stage that starts from a depth network."""
    depth = f"resplat-depth-{size}-352x640"
    return StageNumbers(iterations, batch, processes, 2e-4, 2e-6, depth_weights=depth)


def _finer(batch: int, weights: str, processes: int = 16) -> StageNumbers:
    """A first stage that goes on from weights for other images."""
    return StageNumbers(50_000, batch, processes, 1e-4, 1e-6, weights=weights)


_BASE_8, _BASE_16 = "resplat-base-dl3dv-256x448-view8", "resplat-base-dl3dv-256x448-view16"
_BASE_8_LARGE = "resplat-base-dl3dv-512x960-view8"

RECIPES = {
    "small-8v-256x448": Recipe(_fresh(100_000, 2, "small", 4), StageNumbers(100_000, 1, 4), 6, (24, 45), (20, 30)),
    "base-8v-256x448": Recipe(_fresh(50_000, 2, "base"), StageNumbers(30_000, 1), 6, (24, 45), (20, 30)),
    "large-8v-256x448": Recipe(_fresh(50_000, 2, "large", 32), None, 6, (24, 45), (20, 30)),
    "base-16v-256x448": Recipe(
        _finer(2, _BASE_8), StageNumbers(30_000, 1, update_weights=_BASE_8), 6, (50, 80), (40, 60)
    ),
    "base-32v-256x448": Recipe(_finer(1, _BASE_16, 32), StageNumbers(30_000, 1), 8, (120, 170), (80, 120)),
    "base-8v-512x960": Recipe(_finer(1, _BASE_8), StageNumbers(30_000, 1), 6, (30, 60), (24, 40)),
    "base-16v-540x960": Recipe(
        _finer(1, _BASE_8_LARGE),
        StageNumbers(30_000, 1, steps=(2, 2)),
        8,
        (150, 350),
        (100, 200),
        perceptual_scale=0.5,
    ),
    "base-re10k-2v-256x256": Recipe(
        _fresh(200_000, 8, "base"), StageNumbers(100_000, 2, steps=(2, 2)), 4, (45, 135), (25, 45), 30_000
    ),
}
"""By the names of :data:`LAYOUTS`."""


def defaults_of(name: str, stage: str) -> dict[str, Any]:
    """Options of ``TrainInitializer`` that differ from its own defaults.

    Args:
        name: Of the preset.
        stage: Which networks are trained.

    Raises:
        KeyError: If there is no such preset or stage.
    """
    if stage not in get_args(Stage):
        raise KeyError(stage)
    if name == "mini":
        return {}
    if name == DENSE:
        return _dense()
    if name == DIFF3R:
        return _diff3r()
    layout_name = name.removeprefix(PREFIX)
    if layout_name == name:
        raise KeyError(name)
    recipe, layout = RECIPES[layout_name], LAYOUTS[layout_name]
    shape, behaviour = layout.shape, layout.behaviour
    numbers = recipe.initial if stage == "initial" or recipe.update is None else recipe.update
    if stage == "initial":
        # The original turns scenes to their middle view in the second stage alone.
        behaviour = replace(behaviour, world="raw")
    views = behaviour.context_views
    batch = BatchOptions(
        context_views=(views, views),
        target_views=recipe.targets,
        context_pixels=views * layout.image_size[0] * layout.image_size[1],
        longer_side=max(layout.image_size),
        size_multiple=shape.size_multiple,
        image_size=layout.image_size,
        range_jitter=0.0,
        flip_probability=0.5,
        turn_probability=0.0,
        recolour_probability=0.0,
    )
    return {
        "weights": numbers.weights,
        "depth_weights": numbers.depth_weights,
        "update_weights": numbers.update_weights,
        "train_error_features": False,
        "behaviour_from": "options",
        "start": ("resplat",),
        "steps": numbers.steps,
        "training": InitializerTrainingOptions(
            iterations=numbers.iterations,
            averaging=0.0,
            learning_rate=numbers.learning_rate,
            backbone_learning_rate=numbers.backbone_learning_rate,
            warm_up=0.01,
            weight_decay=0.01,
            clip_norm=0.5,
            scenes_per_iteration=numbers.batch,
            batch=batch,
        ),
        "losses": Losses(
            images=Objective(
                ssim_weight=0.0,
                perceptual_weight=0.5,
                relative=False,
                perceptual="vgg",
                perceptual_scale=recipe.perceptual_scale,
            ),
            context_share=0.0,
            depth=DepthLossWeights(regression=0.0, classification=0.0, smoothness=0.01),
            growth=0.9,
            mean_over_updates=False,
        ),
        "shape": shape,
        "behaviour": behaviour,
        "data": replace(
            _procedural(layout.image_size, views + recipe.targets),
            chunks=ChunkOptions(
                size=layout.image_size,
                context_views=views,
                target_views=recipe.targets,
                gap=recipe.frame_gap,
                start_gap=recipe.first_frame_gap,
                # Of scenes, where the original counts steps.
                warm_up=recipe.frame_gap_warm_up * numbers.batch * numbers.processes,
            ),
        ),
        "schedule": Schedule(evaluate_every=1000, save_every=1000, workers=4),
        "validation_views": views,
    }


def _procedural(size: tuple[int, int], views: int) -> SceneData:
    """Scenes of one size, a new one every time, with some more views than a step needs."""
    options = SceneOptions(sizes=(size,), portrait_share=0.0, num_views=(views + 2, views + 6))
    return SceneData(captures=0, options=options, validation_captures=4)


def _dense() -> dict[str, Any]:
    return {
        "stage": "dense",
        "refinement": RefinementOptions(steps=(10, 40), rates="own-scale", first_share=0.5, solver_iterations=8),
        "training": InitializerTrainingOptions(
            iterations=500,
            averaging=0.98,
            learning_rate=3e-3,
            batch=BatchOptions(
                context_views=(3, 8),
                target_views=2,
                context_pixels=200_000,
                longer_side=192,
                turn_probability=0.1,
                reach=(0.3, 1.0),
            ),
        ),
        "losses": Losses(images=Objective(relative=True)),
        "data": SceneData(
            captures=150,
            options=SceneOptions(sizes=((160, 256), (192, 256), (192, 288), (256, 384)), num_points=(1000, 6000)),
            validation_captures=6,
        ),
        "schedule": Schedule(evaluate_every=50, save_every=50, workers=0),
    }


def _diff3r() -> dict[str, Any]:
    size = (256, 256)
    return {
        "through_optimization": True,
        "refinement": RefinementOptions(
            steps=(10, 50),
            drawn="uniform",
            error="mse",
            lpips_weight=0.05,
            train_initial=True,
            first_share=0.1,
            faults=FaultOptions(
                exposure_probability=0.3,
                exposure=(0.8, 1.2),
                exposure_offset=0.2,
                shake_probability=0.0,
                passer_by_probability=0.0,
            ),
            evaluated_steps=(50,),
            reference_scale=1.0,
        ),
        "training": InitializerTrainingOptions(
            iterations=30_000,
            averaging=0.0,
            learning_rate=1e-4,
            backbone_learning_rate=1e-5,
            warm_up=0.01,
            clip_norm=0.5,
            batch=BatchOptions(
                context_views=(2, 4),
                target_views=4,
                context_pixels=4 * size[0] * size[1],
                longer_side=max(size),
                size_multiple=64,
                image_size=size,
                range_jitter=0.0,
                turn_probability=0.0,
                recolour_probability=0.0,
            ),
        ),
        "data": replace(
            _procedural(size, 8),
            # The paper trains on RealEstate10K; gaps are those of ReSplat there.
            chunks=ChunkOptions(
                size=size, context_views=4, target_views=4, gap=(45, 135), start_gap=(25, 45), warm_up=30_000
            ),
        ),
        "schedule": Schedule(evaluate_every=1000, save_every=1000, workers=4),
        "validation_views": 4,
    }
