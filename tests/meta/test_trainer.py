"""Meta-training: stopping and resuming change nothing, and processes share the work."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from l2o_splat.meta.evaluation import Evaluation
from l2o_splat.meta.options import BufferOptions, MetaLossWeights, MetaOptions
from l2o_splat.meta.record import MetaRecord
from l2o_splat.meta.rules import PaperRuleOptions
from l2o_splat.meta.starts import ReSplatStart
from l2o_splat.meta.trainer import MetaTrainer
from l2o_splat.meta.unroll import DivergedEpisodeError
from l2o_splat.optim.gain import GainRule
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.objective import Objective
from l2o_splat.training.options import Schedule
from l2o_splat.training.saved_state import ResumeError
from l2o_splat.training.sources import Source
from l2o_splat.weights import load_weights
from tests import resplat_networks
from tests.meta.scenes import OPTIONS, SOURCE, small_rule
from tests.meta.test_episode import LARGE

fabric_module = pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")

TRAINING = MetaOptions(
    iterations=6,
    unroll_steps=(1, 3),
    rollout_steps=4,
    episode=OPTIONS,
    # Small, so that episodes are resumed within a few meta-iterations.
    buffer=BufferOptions(capacity=2),
)
SCHEDULE = Schedule(evaluate_every=100, save_every=3, workers=0)


PAPER = replace(
    TRAINING,
    rollout_draw="uniform",
    objective=Objective(ssim_weight=0.0, over_views="mean", relative=False),
    terms=MetaLossWeights(uphill=2.0, uphill_start=3, stability=1.0, context_stability=True, context_views=1),
    episode=replace(OPTIONS, context_views=(2, 2), views_per_step=(2, 2), target_views=2, start="resplat"),
)
"""The paper's recipe in small."""


def make_paper_trainer(folder: Path) -> MetaTrainer:
    """From ReSplat's features, with narrow networks."""
    start = ReSplatStart(resplat_networks.initializer(portrait=True))
    rule = PaperRuleOptions(width=16).build(start.feature_width)
    validation = Evaluation([LARGE.capture(1000)], steps=(1,), views_per_step=2, context_views=2, start=start)
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    return MetaTrainer(fabric, rule, LARGE, validation, PAPER, SCHEDULE, folder, start)


def make_trainer(folder: Path, options: MetaOptions = TRAINING, fabric=None) -> MetaTrainer:
    fabric = fabric or fabric_module.Fabric(accelerator="cpu", devices=1)
    validation = Evaluation([SOURCE.capture(1000)], steps=(1, 2), views_per_step=3, sh_degree=1)
    return MetaTrainer(fabric, small_rule(), SOURCE, validation, options, SCHEDULE, folder)


def weights_of(trainer: MetaTrainer) -> torch.Tensor:
    return torch.cat([value.flatten() for value in trainer.rule.network.state_dict().values()])


def stop_after(iterations: int, number: int = signal.SIGTERM):
    """A report that has the process asked to stop."""

    def report(trainer, _):
        if trainer.iteration == iterations:
            os.kill(os.getpid(), number)

    return report


def ignore(trainer, report):
    pass


def test_stopped_by_sigterm_and_resumed_it_ends_bit_for_bit_the_same(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    ages = []
    whole.run(lambda trainer, report: ages.append(report.step.age))
    assert max(ages) > 0  # Some meta-iterations went on with a scene of the buffer.
    stopped = make_trainer(tmp_path / "stopped")
    stopped.run(stop_after(4))
    assert stopped.iteration == 4
    resumed = make_trainer(tmp_path / "stopped")
    resumed.run(ignore)
    assert resumed.iteration == 6
    assert torch.equal(weights_of(resumed), weights_of(whole))
    for slot, buffer in whole.buffers.items():
        for mine, theirs in zip(buffer.episodes, resumed.buffers[slot].episodes, strict=True):
            assert (mine.index, mine.step) == (theirs.index, theirs.step)
            assert torch.equal(mine.gaussians.pack(), theirs.gaussians.pack())
    assert torch.equal(
        whole.averaged_rule.network.head.weight.detach(), resumed.averaged_rule.network.head.weight.detach()
    )


def test_the_papers_recipe_resumes_bit_for_bit_and_its_weights_name_their_system(tmp_path):
    whole = make_paper_trainer(tmp_path / "whole")
    moved = []
    with MetaRecord(tmp_path / "whole", "procedural scenes", 6) as record:
        whole.run(lambda trainer, report: (record(trainer, report), moved.append(report.step.gradient_norm)))
    assert max(moved) > 0
    make_paper_trainer(tmp_path / "stopped").run(stop_after(4))
    resumed = make_paper_trainer(tmp_path / "stopped")
    resumed.run(ignore)
    assert torch.equal(weights_of(resumed), weights_of(whole))
    weights = load_weights(tmp_path / "whole" / "best.safetensors", "learn2splat")
    rule = Learn2SplatRule.from_weights(weights)
    assert rule.network.shape == whole.rule.network.shape


def test_training_moves_the_weights_and_reports_progress(tmp_path):
    trainer = make_trainer(tmp_path)
    before, seen = weights_of(trainer), []
    trainer.run(lambda trainer, report: seen.append(report))
    assert not torch.equal(before, weights_of(trainer))
    assert len(seen) == 6
    assert all(report.step.gradient_norm > 0 and report.step.skipped == 0 for report in seen)
    assert [report.validation is None for report in seen] == [True] * 5 + [False]
    assert seen[-1].validation.keys() == {"psnr", "psnr_1", "psnr_2"}
    assert seen[-1].numbers().keys() >= {"psnr", "psnr_1", "psnr_2", "waited_seconds", "gain_per_step"}


def test_a_state_resumes_only_with_the_same_options(tmp_path):
    make_trainer(tmp_path, replace(TRAINING, iterations=1)).run(ignore)
    with pytest.raises(ResumeError, match="other options .*'seed': 0"):
        make_trainer(tmp_path, replace(TRAINING, iterations=1, seed=5)).run(ignore)


def test_a_scene_that_diverges_is_skipped(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, replace(TRAINING, iterations=2))
    monkeypatch.setattr(
        "l2o_splat.meta.trainer.unroll", lambda *_: (_ for _ in ()).throw(DivergedEpisodeError("not finite"))
    )
    before, seen = weights_of(trainer), []
    trainer.run(lambda trainer, report: seen.append(report.step.skipped))
    assert seen == [1, 1]
    assert torch.allclose(before, weights_of(trainer), atol=1e-3)
    # Any other fault is no property of the scene and ends the training.
    monkeypatch.setattr("l2o_splat.meta.trainer.unroll", lambda *_: (_ for _ in ()).throw(FloatingPointError("a bug")))
    with pytest.raises(FloatingPointError, match="a bug"):
        make_trainer(tmp_path / "other", replace(TRAINING, iterations=2)).run(ignore)


class WithFewViews(Source):
    """Captures of which every ``period``-th has views for a step, or none has."""

    def __init__(self, period: int | None) -> None:
        self.period = period

    def capture(self, index):
        capture = SOURCE.capture(index)
        usable = self.period is not None and index % self.period == 0
        return capture if usable else replace(capture, views=capture.views[[0]])


@pytest.mark.parametrize("period", [2, None])
def test_captures_that_no_step_can_use_are_counted_and_end_a_training_that_has_no_others(tmp_path, monkeypatch, period):
    monkeypatch.setattr("l2o_splat.training.outer_loop.MAX_UNUSABLE", 3)
    trainer, seen = make_trainer(tmp_path, replace(TRAINING, buffer=BufferOptions(capacity=50))), []
    trainer.source = WithFewViews(period)
    if period is None:
        with pytest.raises(TrainingError, match="None of the last 3 captures .* Capture 2 has 1 views; .* needed"):
            trainer.run(ignore)
        return
    trainer.run(lambda trainer, report: seen.append(report.step.skipped))
    assert seen == [0, 1] * 3 and trainer.unusable == 3


def test_scenes_that_all_diverge_end_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("l2o_splat.training.outer_loop.MAX_UNUSABLE", 4)
    monkeypatch.setattr(
        "l2o_splat.meta.trainer.unroll", lambda *_: (_ for _ in ()).throw(DivergedEpisodeError("not finite"))
    )
    with pytest.raises(TrainingError, match="None of the last 4 captures could be used. The last one: not finite"):
        make_trainer(tmp_path).run(ignore)


PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from lightning_fabric import Fabric
from tests.meta.test_trainer import TRAINING, ignore, make_trainer, weights_of
if __name__ == "__main__":
    torch.set_num_threads(1)
    devices, folder = int(sys.argv[1]), Path(sys.argv[2])
    fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
    fabric.launch()
    options = replace(TRAINING, iterations=3, scenes_per_iteration=2 // devices)
    trainer = make_trainer(folder, options, fabric)
    trainer.run(ignore)
    if fabric.global_rank == 0:
        torch.save(weights_of(trainer), folder / "weights.pt")
"""


def test_two_processes_do_what_one_does_with_accumulated_gradients(tmp_path):
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    root = str(Path(__file__).resolve().parents[2])
    found = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        environment = os.environ | {"PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
        subprocess.run(
            [sys.executable, str(script), str(devices), str(folder)], check=True, env=environment, timeout=600
        )
        found[devices] = torch.load(folder / "weights.pt", weights_only=True)
    assert len(list((tmp_path / "2" / "states" / "iteration-00000003").glob("process-*.pt"))) == 2
    start = weights_of(make_trainer(tmp_path / "start"))
    moved = (found[1] - start).norm()
    assert moved > 0
    assert (found[1] - found[2]).norm() < 1e-3 * moved


def test_weights_come_with_their_training_record(tmp_path):
    trainer = make_trainer(tmp_path, replace(TRAINING, iterations=2))
    with MetaRecord(tmp_path, "two small scenes", 2) as record:
        trainer.run(record)
    weights = load_weights(tmp_path / "best.safetensors", "gain")
    record = weights.card.training
    assert record["data"] == "two small scenes" and record["iterations"] == 2
    assert record["options"]["unroll_steps"] == [1, 3]
    assert {"command", "commit", "machine", "date"} <= record["environment"].keys()
    assert record["curve"][-1]["iteration"] == 2
    assert json.loads((tmp_path / "curve.jsonl").read_text())["psnr"] == pytest.approx(trainer.best)
    assert list((tmp_path / "tensorboard").iterdir())
    rule = GainRule.from_weights(weights)
    assert rule.config == trainer.rule.config
    assert torch.equal(rule.network.head.weight, trainer.averaged_rule.network.head.weight)


def test_recomputed_blocks_change_no_weight_and_may_begin_in_the_middle_of_a_run(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.run(ignore)
    make_trainer(tmp_path / "parts").run(stop_after(3))
    rest = make_trainer(tmp_path / "parts", replace(TRAINING, activation_checkpointing=True))
    rest.run(ignore)
    assert torch.equal(weights_of(rest), weights_of(whole))
