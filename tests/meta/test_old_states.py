"""States of meta-training that earlier versions saved: they resume, or are refused in one sentence."""

from pathlib import Path

import pytest
import torch

from l2o_splat.meta.trainer import MetaTrainer
from l2o_splat.training.saved_state import ResumeError
from tests.meta.test_trainer import ignore, make_trainer, weights_of

pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")

OPTIONS = {
    "iterations": 6,
    "scenes_per_iteration": 1,
    "seed": 0,
    "unroll_steps": [1, 3],
    "rollout_steps": 4,
    "rollout_growth": 0.4,
    "learning_rate": 0.001,
    "warm_up": 0.03,
    "weight_decay": 0.01,
    "clip_norm": 0.5,
    "averaging": 0.98,
    "episode": {
        "target_views": 3,
        "context_views": [5, 25],
        "views_per_step": [2, 3],
        "kept_points": [0.1, 1.0],
        "max_points": 5000,
        "drop_black": True,
        "flip_probability": 0.5,
        "sh_degree": 1,
    },
    "buffer": {"capacity": 2, "resume_probability": 0.7, "keep_fresh": 0.7, "keep_resumed": 0.99},
    "objective": {"ssim_weight": 0.2, "perceptual_weight": 0.0, "relative": True, "_lpips": None},
    "terms": {"discount": 0.9, "foresight": 0.0, "uphill": 1.0, "stability": 0.5},
    "loop": {
        "raster": {
            "rasterize_mode": "classic",
            "eps2d": 0.3,
            "near": 0.01,
            "far": 10000000000.0,
            "background": [0.0, 0.0, 0.0],
            "sh_degree": None,
            "depth": False,
            "image_rules": "1.4",
        },
        "ssim_weight": 0.2,
    },
    "rule": {
        "neighbours": 4,
        "active_only": False,
        "knn_refresh_interval": 100,
        "log_scale_range": [-6.0, 4.0],
        "opacity_logit_limit": 7.0,
        "sh_limit": 2.0,
        "cap_sh_degree": None,
        "latent_init": "zeros",
        "use_features": False,
        "seed": 0,
        "precision": "auto",
        "units": "own_scale",
        "step_decay": [20.0, 0.6],
        "look_growth": None,
        "trust_decay": None,
    },
    "shape": {"latent_width": 8, "attention_width": 4, "hidden_width": 12, "num_blocks": 2},
    "source": "ProceduralSource(seed=0, ranges=CaptureRanges(short_side=(32, 32), long_side=(40, 40), "
    "num_views=(8, 9), num_points=(60, 90)), seeds=range(1000000000, 2000000000))",
}
"""Options as version 0.1.0 (commit 049c07d) saved them for the trainer of these tests."""


class StoppedError(Exception):
    """Ends a run without a saved state."""


def write_state_of_0_1_0(folder: Path, iteration: int, options: dict) -> MetaTrainer:
    """Train for some iterations, and write the state as commit 049c07d did."""
    trainer = make_trainer(folder / "elsewhere")

    def stop(trainer, report):
        if trainer.iteration == iteration:
            raise StoppedError

    trainer.schedule = trainer.schedule.__class__(evaluate_every=100, save_every=100, workers=0)
    with pytest.raises(StoppedError):
        trainer.run(stop)
    state = folder / "states" / f"iteration-{iteration:08d}"
    state.mkdir(parents=True)
    shared = {
        "options": options,
        "iteration": iteration,
        "seconds": 1.5,
        "best": 20.25,
        "network": trainer.network.state_dict(),
        "average": trainer.average.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
    }
    torch.save(shared, state / "shared.pt")
    episodes = [
        {
            "index": episode.index,
            "step": episode.step,
            "gaussians": {
                name: getattr(episode.gaussians, name)
                for name in ("means", "scales", "quats", "opacities", "features_dc", "features_rest")
            },
            # Every row repeated the scene's number.
            "state": episode.state.per_gaussian
            | {"scale_origin": episode.state["scale_origin"].repeat(len(episode.gaussians), 1)},
        }
        for episode in trainer.buffers[0].episodes
    ]
    assert episodes and any(episode["step"] for episode in episodes)
    own = {"fresh": {0: trainer.fresh[0]}, "buffers": {0: {"filled": True, "episodes": episodes}}}
    torch.save(own, state / "process-0.pt")
    return trainer


def test_a_state_of_0_1_0_resumes_and_ends_bit_for_bit_as_an_uninterrupted_run(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.run(ignore)
    assert write_state_of_0_1_0(tmp_path / "old", 4, OPTIONS).buffers[0].filled
    resumed, seen = make_trainer(tmp_path / "old"), []
    resumed.run(lambda trainer, report: seen.append(trainer.iteration))
    assert seen == [5, 6] and resumed.best == 20.25 and resumed.seconds > 1.5
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert torch.equal(resumed.average.module.head.weight, whole.average.module.head.weight)


def test_a_state_of_0_1_0_with_other_options_is_refused_in_one_sentence(tmp_path):
    write_state_of_0_1_0(tmp_path, 4, OPTIONS | {"rule": OPTIONS["rule"] | {"trust_decay": 150.0}})
    with pytest.raises(ResumeError, match="trained with other options .*'trust_decay': 150.0.* into another folder"):
        make_trainer(tmp_path).run(ignore)
