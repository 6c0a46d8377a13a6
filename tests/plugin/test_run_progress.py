"""What a run tells a program that follows it, from its first moment to its end."""

import itertools
import os
import signal

import pytest

from l2o_splat.progress import read_progress
from tests.plugin.captures import method_config, train


def followed(config):
    """A trainer, and the list of what it will report."""
    config.get_base_dir().mkdir(parents=True)
    trainer, heard = config.setup(local_rank=0, world_size=1), []
    trainer.progress.listeners.append(heard.append)
    return trainer, heard


def phases(heard) -> list[str]:
    return [phase for phase, _ in itertools.groupby(progress.phase for progress in heard)]


def test_a_run_reports_every_phase_and_what_it_achieves(tiny_capture, tmp_path, monkeypatch):
    monkeypatch.setattr("l2o_splat.progress.SECONDS_BETWEEN", 0.0)
    config = method_config(tiny_capture, tmp_path, steps=12)
    trainer, heard = followed(config)
    trainer.setup()
    trainer.train()
    assert phases(heard) == ["starting", "training", "saving", "evaluating", "saving", "finished"]
    shares = [progress.share for progress in heard]
    assert shares == sorted(shares) and shares[-1] == 1.0
    last = read_progress(config.get_base_dir())
    assert last == heard[-1] and last.is_over and last.rule == "adam"
    assert (last.step, last.last_step, last.seconds_left, last.num_gaussians) == (12, 12, 0.0, 60)
    quality = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    assert last.psnr_held_out == pytest.approx(quality) and heard[0].psnr_held_out is None
    losses = [progress.loss for progress in heard if progress.loss is not None]
    assert 0 < losses[-1] < losses[0] and last.psnr > 5 and 0 < last.step_seconds < 60


def test_a_time_budget_is_reported_as_it_is_spent(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path)
    config.max_num_iterations, config.seconds = None, 1.5
    trainer, heard = followed(config)
    trainer.setup()
    trainer.train()
    taken = [progress for progress in heard if progress.phase == "training" and progress.seconds_left is not None]
    assert all(one.seconds_left == pytest.approx(1.5 * (1 - one.share), abs=0.02) for one in taken if one.share < 1)
    assert heard[-1].phase == "finished" and heard[-1].share > 0.8


def test_a_stopped_run_says_so(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path)
    trainer, heard = followed(config)
    trainer.setup()
    trainer.progress.listeners.append(
        lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.phase == "training" else None
    )
    with pytest.raises(SystemExit):
        trainer.train()
    assert heard[-1].phase == "stopped" and heard[-1].step == 1 and heard[-1].share == pytest.approx(0.1)


def test_a_run_that_fails_says_why(tiny_capture, tmp_path):
    (tiny_capture / "images" / "003.png").write_bytes(b"no image")
    config = method_config(tiny_capture, tmp_path)
    with pytest.raises(SystemExit):
        train(config)
    last = read_progress(config.get_base_dir())
    assert last.phase == "failed" and "003.png cannot be read as an image" in last.message
