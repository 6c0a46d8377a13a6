"""Whole training steps of every method on the card: no mixing of devices, and no waiting but where it must be."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from l2o_splat import progress
from l2o_splat.gaussians import Gaussians
from l2o_splat.optim import learn2splat
from l2o_splat.optim.sequence import SequencedRule
from l2o_splat.plugin.model import L2OModel
from l2o_splat.schedule.controller import NAMES, Controller
from l2o_splat.weights import save_weights
from l2o_splat.weights.format import WeightsCard
from tests.devices.card import CARD, CardWatch, Wait, WrongDeviceError
from tests.devices.stand_ins import install
from tests.plugin.captures import method_config, write_tiny_capture

REFUSAL = {"gaussians.Gaussians.all_finite|number": 1}
"""Gradients and deltas are looked at together before anything moves, since a refused step must change nothing."""
SEARCH = {"nets.knn.nearest_neighbours|number": 1, "nets.knn._search_leaves|nonzero": 2, "nets.knn._merge|nonzero": 1}
"""A neighbour search goes down its tree by lists whose lengths depend on the points (scene-sized once a search)."""
ACTIVE = {"optim.learn2splat.Learn2SplatRule._active|nonzero": 1}
"""The released weights work on the Gaussians that have a gradient, and their number sizes what follows."""
COMPARISON = {"optim.safeguard.SafeguardedRule._at_work|number": 1}
"""Every tenth step: whether the loss has risen decides which rule goes on."""
FALL = {"optim.safeguard.SafeguardedRule._at_work.<lambda>|number": 1}
"""Once, when the fallback takes over."""


LOSS = {"plugin.pipeline.L2OPipeline.get_train_loss_dict|number": 1}
"""A controller that watches the loss reads it in every step."""


@dataclass(frozen=True)
class Run:
    """A method, its options, and what each step after the first may wait for."""

    method: str
    allowed: tuple[dict[str, int], ...]
    options: dict = field(default_factory=dict)
    num_steps: int = 4
    controlled: bool = False
    """Under a controller of which every number does something, and the preset fast."""
    exposure: str = "off"
    in_some_steps: dict[int, dict[str, int]] = field(default_factory=dict)
    """What some steps wait for on top, by number."""

    def waits(self, step: int) -> Counter[Wait]:
        parts = [*self.allowed, *([self.in_some_steps[step]] if step in self.in_some_steps else [])]
        return Counter({Wait(*name.rsplit("|", 1)): count for part in parts for name, count in part.items()})


RUNS = {
    "adam": Run("l2o-adam", (REFUSAL,)),
    "tuned adam": Run("l2o-adam-tuned", (REFUSAL,)),
    "gain-mini": Run("learn2splat", (REFUSAL,), {"weights": "gain-mini"}, 5),
    "released network": Run("learn2splat", (REFUSAL, ACTIVE, SEARCH), {"weights": "random:0"}, 3),
    "safeguarded": Run(
        "learn2splat",
        (REFUSAL,),
        {"weights": None, "safeguard": True},
        22,
        in_some_steps={10: COMPARISON, 20: COMPARISON},
    ),
    "sequence": Run(
        "learn2splat", (REFUSAL,), {"weights": None, "finish_with": "adam-own-scale", "finish_after": 2}, 5
    ),
    "exposures": Run("l2o-adam-tuned", (REFUSAL,), exposure="affine"),
    "controlled": Run("l2o-adam-tuned", (REFUSAL, LOSS), controlled=True),
    "controlled gain-mini": Run("learn2splat", (REFUSAL, LOSS), {"weights": "gain-mini"}, 4, controlled=True),
    "resplat": Run("resplat", (REFUSAL, SEARCH), num_steps=3),
    "diff3r": Run("diff3r", (REFUSAL,), num_steps=3),
}


class Training:
    """A run through nerfstudio's trainer, on the card or on the host."""

    def __init__(self, run: Run, folder, device: str) -> None:
        config = method_config(write_tiny_capture(folder / f"{device}-capture"), folder / device, run.method)
        config.max_num_iterations = 100  # Rates of every length of run are those of the same long one.
        for name, value in run.options.items():
            setattr(config.optimizers["gaussians"]["optimizer"], name, value)
        config.pipeline.model.exposure = run.exposure
        if run.controlled:
            controller = Controller(np.linspace(-0.3, 0.3, len(NAMES)))
            card = WeightsCard("controller", {"numbers": list(NAMES)})
            save_weights(folder / "controller", controller.to_weights(card))
            config.preset, config.schedule.controller = "fast", str(folder / "controller.safetensors")
            config.schedule.growth = 1.0  # An event waits for the card, which other tests look at.
        if run.method in ("resplat", "diff3r"):
            config.pipeline.initialization.context.num_views = 2
        config.machine.device_type = device
        config.get_base_dir().mkdir(parents=True, exist_ok=True)
        self.trainer = config.setup(local_rank=0, world_size=1)
        self.trainer.setup()
        self.trainer.pipeline.train()
        self.trainer.save_checkpoint = lambda step: None  # Writing a file reads all of it.

    @property
    def gaussians(self) -> Gaussians:
        return self.trainer.pipeline.model.gaussians.detach()

    def step(self, number: int):
        return self.trainer.train_iteration(number)


@pytest.fixture
def watch(monkeypatch):
    watch = CardWatch()
    install(monkeypatch, watch)
    # Loss and PSNR are read for reports, twice a second: not in every step, and when depends on the time.
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", math.inf)
    return watch


def started(watch: CardWatch, run: Run, folder) -> Training:
    """A run on the card after its first step."""
    with watch.on():
        training = Training(run, folder, "meta")
        training.trainer.estimate._done = 1000  # The rule is timed in the first steps only, which waits for the card.
        training.step(0)
    return training


@pytest.mark.parametrize("name", RUNS)
def test_a_step_waits_for_the_card_only_where_it_must(watch, tmp_path, name):
    run = RUNS[name]
    training = started(watch, run, tmp_path)
    for step in range(1, run.num_steps):
        with watch.on() as waits:
            training.step(step)
        assert waits.counted == run.waits(step), f"step {step}"
    assert all(value.device == CARD for _, value in training.gaussians.items())


@pytest.mark.parametrize("name", ["gain-mini", "released network", "exposures", "resplat", "diff3r"])
def test_the_card_takes_the_steps_that_the_host_takes(watch, tmp_path, name):
    run = RUNS[name]
    here, there = Training(run, tmp_path, "cpu"), started(watch, run, tmp_path)
    start = here.gaussians.pack()
    here.step(0)
    moved = here.gaussians.pack() - start
    with watch.on():
        packed = there.gaussians.pack()
    assert moved.norm() > 0
    assert (watch.card.host(packed) - start - moved).norm() < 1e-3 * moved.norm()


def test_the_host_waits_for_the_rule_in_the_first_steps_only(watch, tmp_path):
    with watch.on():
        training = Training(RUNS["adam"], tmp_path, "meta")
    timed = []
    for step in range(24):
        with watch.on() as waits:
            training.step(step)
        timed.append(sum(count for wait, count in waits.counted.items() if wait.what == "everything"))
    assert timed == [1] * 21 + [0] * 3


def test_a_safeguard_that_fell_waits_no_longer(watch, tmp_path):
    run = Run("learn2splat", (REFUSAL,), {"weights": None, "safeguard": True})
    training = started(watch, run, tmp_path)
    optimizer = training.trainer.optimizers.optimizers["gaussians"]
    with watch.on():
        optimizer.rule_state["losses"][1] = 1e-6  # The best loss so far, which no step can keep to.
    for step in range(1, 10):
        with watch.on():
            training.step(step)
    found = []
    for step in range(10, 13):
        with watch.on() as waits:
            training.step(step)
        found.append(waits.counted)
    expected = [Run("", (REFUSAL, more)).waits(0) for more in (COMPARISON, FALL, {})]
    assert found[1:] == expected[1:] and found[0] >= expected[0]
    assert "remembered" not in optimizer.rule_state


def test_a_tensor_left_on_the_host_is_found(watch, tmp_path, monkeypatch):
    def left_behind(n, width, device):
        return {name: torch.zeros(n, width) for name in ("adam_m", "adam_v")} | {"adam_t": torch.zeros(n).long()}

    monkeypatch.setattr(learn2splat, "zero_moments", left_behind)
    with pytest.raises(WrongDeviceError, match=r"aten.* got tensors of the host .* in optim.adam_moments"):
        started(watch, RUNS["released network"], tmp_path)


def test_a_number_read_in_the_loop_is_found(watch, tmp_path, monkeypatch):
    run, correct = RUNS["adam"], L2OModel._step_metrics

    def reads(self, squared_errors):
        return correct(self, squared_errors) | {"worst": squared_errors[0].max().item()}

    training = started(watch, run, tmp_path)
    monkeypatch.setattr(L2OModel, "_step_metrics", reads)
    with watch.on() as waits:
        training.step(1)
    assert sum((waits.counted - run.waits(1)).values()) == 1


def test_an_upload_in_the_loop_is_found(watch, tmp_path, monkeypatch):
    run, correct = RUNS["sequence"], SequencedRule._at_work

    def sends(self, gaussians, feedback, state):
        _ = gaussians.means * gaussians.means.new_tensor([1.0, 2.0, 3.0])
        return correct(self, gaussians, feedback, state)

    training = started(watch, run, tmp_path)
    monkeypatch.setattr(SequencedRule, "_at_work", sends)
    with watch.on() as waits:
        training.step(1)
    assert [wait.what for wait in waits.counted - run.waits(1)] == ["upload"]


def test_a_check_of_every_field_is_found(watch, tmp_path, monkeypatch):
    training = started(watch, RUNS["adam"], tmp_path)

    def one_by_one(self, *others):
        return all(bool(value.isfinite().all()) for part in (self, *others) for _, value in part.items())

    monkeypatch.setattr(Gaussians, "all_finite", one_by_one)
    with watch.on() as waits:
        training.step(1)
    assert sum(waits.counted.values()) == 6
