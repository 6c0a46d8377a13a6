"""Several processes, several scenes of one update, and rates of their own for a backbone."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from l2o_splat.initializer_training.batches import fixed_batch
from l2o_splat.initializer_training.initial_stage import InitialStage
from l2o_splat.initializer_training.networks import new_initial_model
from l2o_splat.initializer_training.options import InitializerTrainingOptions, Losses
from l2o_splat.initializer_training.trainer import InitializerTrainer
from l2o_splat.training.options import Schedule
from l2o_splat.training.sources import Source
from tests.initializer_training.networks import BATCH, CONFIG, SHAPE, SOURCE
from tests.initializer_training.test_trainer import without_points

fabric_module = pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")

TRAINING = InitializerTrainingOptions(
    iterations=3, batch=BATCH, averaging=0.5, scenes_per_iteration=2, backbone_learning_rate=1e-5
)


@dataclass(frozen=True)
class SomeUnusable(Source):
    """Every fifth capture cannot be used, so that an iteration has one scene, in one of two processes."""

    def capture(self, index):
        capture = SOURCE.capture(index)
        return without_points(capture) if index % 5 == 3 else capture


def make_trainer(folder: Path, options=TRAINING, fabric=None) -> InitializerTrainer:
    fabric = fabric or fabric_module.Fabric(accelerator="cpu", devices=1)
    stage = InitialStage(new_initial_model(SHAPE, CONFIG, seed=0), Losses(rendered=0.0))
    validation = [fixed_batch(SOURCE.capture(0), 2, fabric.device)]
    schedule = Schedule(evaluate_every=2, save_every=1, workers=0)
    return InitializerTrainer(fabric, stage, SomeUnusable(), validation, options, schedule, folder, {})


def weights_of(trainer: InitializerTrainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.network.state_dict().values()])


def ignore(trainer, report):
    pass


PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from lightning_fabric import Fabric
from tests.initializer_training.test_processes import TRAINING, ignore, make_trainer, weights_of
if __name__ == "__main__":
    torch.set_num_threads(1)
    devices, folder = int(sys.argv[1]), Path(sys.argv[2])
    fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
    fabric.launch()
    trainer = make_trainer(folder, replace(TRAINING, scenes_per_iteration=2 // devices), fabric)
    seen = []
    trainer.run(lambda trainer, report: seen.append(report.validation))
    if fabric.global_rank == 0:
        torch.save({"weights": weights_of(trainer), "psnr": seen[1]["psnr"]}, folder / "found.pt")
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
        found[devices] = torch.load(folder / "found.pt", weights_only=True)
    assert len(list((tmp_path / "2" / "states" / "iteration-00000003").glob("process-*.pt"))) == 2
    start = weights_of(make_trainer(tmp_path / "start"))
    moved = (found[1]["weights"] - start).norm()
    assert moved > 0
    assert (found[1]["weights"] - found[2]["weights"]).norm() < 1e-3 * moved
    assert found[1]["psnr"] == pytest.approx(found[2]["psnr"], abs=1e-3)


def test_accumulated_scenes_have_the_mean_of_their_gradients(tmp_path):
    """One update of two scenes moves along the mean of the gradients that each has alone."""
    gradients = []
    for slots in ((0,), (1,), (0, 1)):
        trainer = make_trainer(tmp_path)
        trainer.slots, trainer.step = slots, lambda: 1.0
        trainer.iterate(iter([SOURCE.capture(slot) for slot in slots]))
        network = trainer.stage.network.depth_predictor
        # A scene that is shown without points does not reach the layers of the guide.
        parts = [torch.zeros_like(value) if value.grad is None else value.grad for value in network.parameters()]
        gradients.append(torch.cat([part.flatten() for part in parts]))
    torch.testing.assert_close((gradients[0] + gradients[1]) / 2, gradients[2], atol=1e-6, rtol=1e-4)


def test_stopped_and_resumed_several_scenes_end_bit_for_bit_the_same(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.run(ignore)

    def stop(trainer, _):
        if trainer.iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    make_trainer(tmp_path / "parts").run(stop)
    resumed = make_trainer(tmp_path / "parts")
    resumed.run(ignore)
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert resumed.unusable == whole.unusable == 1


def test_the_image_transformer_has_a_rate_of_its_own(tmp_path):
    trainer = make_trainer(tmp_path)
    transformer = set(trainer.stage.network.depth_predictor.pretrained.parameters())
    rates = {group["max_lr"]: set(group["params"]) for group in trainer.optimizer.param_groups}
    assert rates.keys() == {TRAINING.learning_rate, 1e-5} and rates[1e-5] == transformer
    assert sum(map(len, rates.values())) == len(list(trainer.network.parameters()))
    before = {parameter: parameter.detach().clone() for parameter in trainer.network.parameters()}
    trainer.run(ignore)
    moved = {parameter: (parameter - old).detach().abs().max() for parameter, old in before.items()}
    slow = max(float(moved[parameter]) for parameter in transformer)
    fast = max(float(moved[parameter]) for parameter in moved if parameter not in transformer)
    assert 0 < slow < 0.1 * fast


def test_parts_that_no_loss_reaches_stay_as_they_are(tmp_path):
    """Neither weight decay nor an average over processes moves them."""
    trainer = make_trainer(tmp_path, replace(TRAINING, weight_decay=0.5))
    before = trainer.stage.network.gaussian_head[0].weight.detach().clone()
    trainer.run(ignore)
    assert torch.equal(trainer.stage.network.gaussian_head[0].weight, before)


def test_a_state_of_an_earlier_version_goes_on(tmp_path):
    """One without the options that were added since; with their defaults a run does what it did then."""
    once = replace(TRAINING, scenes_per_iteration=1, backbone_learning_rate=None)
    whole = make_trainer(tmp_path / "whole", once)
    whole.run(ignore)
    first = make_trainer(tmp_path / "old", once)
    first.run(lambda trainer, _: setattr(trainer, "stopping", trainer.iteration == 2))
    path = tmp_path / "old" / "states" / "iteration-00000002" / "shared.pt"
    shared = torch.load(path, weights_only=True)
    for name in ("scenes_per_iteration", "backbone_learning_rate"):
        del shared["options"][name]
    del shared["options"]["batch"]["image_size"]
    torch.save(shared, path)
    resumed = make_trainer(tmp_path / "old", once)
    resumed.run(ignore)
    assert resumed.iteration == 3 and torch.equal(weights_of(resumed), weights_of(whole))
    found = resumed.migrated_options({"losses": {"growth": 0.5}})
    losses = {"mean_over_updates": True, "perceptual": "lpips", "perceptual_scale": 1.0, "growth": 0.5}
    assert found["losses"] == losses and "refinement" not in found
