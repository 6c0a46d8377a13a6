"""A small rule and small captures for tests of meta-training."""

from __future__ import annotations

import torch

from l2o_splat.meta.episode import Episode, start_episode
from l2o_splat.meta.options import EpisodeOptions
from l2o_splat.optim.gain import GainRule
from l2o_splat.training.options import CaptureRanges
from l2o_splat.training.sources import ProceduralSource
from tests.optim.gain import make_rule

CPU = torch.device("cpu")
SOURCE = ProceduralSource(
    0, CaptureRanges(short_side=(32, 32), long_side=(40, 40), num_views=(8, 9), num_points=(60, 90))
)
OPTIONS = EpisodeOptions(sh_degree=1, views_per_step=(2, 3))


def small_rule(trained: bool = True) -> GainRule:
    """Trainable, with random weights."""
    return make_rule(trained, step_decay=(20.0, 0.6))


def episode(rule: GainRule, index: int = 0, options: EpisodeOptions = OPTIONS) -> Episode:
    return start_episode(rule, SOURCE.capture(index), index, options, seed=3, device=CPU)
