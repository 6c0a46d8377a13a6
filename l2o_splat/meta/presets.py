"""Presets of meta-training: ours, and those of Learn2Splat (arXiv 2605.15760) as in its code and launch scripts.

The papers' schedules are given as shares of the training, so that a shorter one keeps their proportions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from l2o_splat.meta.options import BufferOptions, EpisodeOptions, InnerLoop, MetaLossWeights, MetaOptions
from l2o_splat.meta.rules import GainRuleOptions, PaperRuleOptions, TrainedRule
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.training.objective import Objective

PresetName = Literal["gain", "paper-dense", "paper-sparse"]

PAPER_ITERATIONS = 150_000
"""Of the released joint training, 4 scenes each."""


class Preset(NamedTuple):
    """What a preset decides."""

    training: MetaOptions
    rule: TrainedRule


def paper_dense() -> Preset:
    """Point starts: a pool of 64 context views, 8 in each inner step."""
    training = MetaOptions(
        iterations=PAPER_ITERATIONS,
        averaging=0.0,
        learning_rate=1e-4,
        warm_up=0.01,
        weight_decay=0.01,
        clip_norm=0.5,
        unroll_steps=(1, 6),
        rollout_steps=50,
        rollout_draw="uniform",
        rollout_growth=10_000 / PAPER_ITERATIONS,
        episode=EpisodeOptions(
            target_views=6,
            context_views=(64, 64),
            context_choice="fps",
            views_per_step=(8, 8),
            kept_points=(0.1, 1.0),
            max_points=70_000,
        ),
        buffer=BufferOptions(capacity=20, clear_every=20_000),
        objective=Objective(
            ssim_weight=0.0, perceptual_weight=0.5, over_views="mean", relative=False, perceptual="vgg"
        ),
        terms=MetaLossWeights(
            discount=0.9,
            uphill=2.0,
            uphill_start=100,
            stability=1.0,
            context_stability=True,
            context_views=4,
        ),
        loop=InnerLoop(RasterSettings("classic", 1e-4), ssim_weight=0.2, max_active=100_000),
    )
    return Preset(training, PaperRuleOptions())


def paper_sparse() -> Preset:
    """ReSplat starts from 8 fixed context views; the latent state begins with its features."""
    training, rule = paper_dense()
    episode = replace(training.episode, start="resplat", context_views=(8, 8))
    return Preset(replace(training, episode=episode), rule)


def find_preset(name: str) -> Preset:
    """The values of a preset.

    Raises:
        KeyError: If there is none of this name.
    """
    makers = {
        "gain": lambda: Preset(MetaOptions(), GainRuleOptions()),
        "paper-dense": paper_dense,
        "paper-sparse": paper_sparse,
    }
    return makers[name]()
