"""The runs that controllers are trained on are those of ns-train."""

import numpy as np
import pytest
import torch

from l2o_splat.evolution.budgeted_run import PIXELS_OF_A_SPLAT, PIXELS_OF_AN_UPDATE, BudgetedRun, ReducedPhotographs
from l2o_splat.gaussians import FIELDS
from l2o_splat.plugin import pipeline as pipeline_room
from l2o_splat.plugin import trainer as trainer_room
from l2o_splat.plugin.model import L2OModel
from l2o_splat.plugin.training_captures import read_training_capture
from l2o_splat.scenes.capture import write_capture
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.scenes.split import split_views
from l2o_splat.schedule.controller import NAMES, Controller
from l2o_splat.weights import save_weights
from l2o_splat.weights.format import WeightsCard
from tests.plugin.captures import method_config, train

BUDGET, VIEWS = 12.0, 3  # Fewer than 100 steps, after which nerfstudio saves by itself
PARSER = ("nerfstudio-data", "--load-3D-points")


@pytest.fixture
def capture(tmp_path):
    # Large enough for a reduced size, whose sides are whole numbers.
    write_capture(
        tmp_path / "capture", generate(5, ProceduralOptions(num_views=10, width=208, height=160, num_points=90))
    )
    return tmp_path / "capture"


@pytest.fixture
def counted_clock(monkeypatch):
    """A clock that moves by what steps and looks cost, in steps at full size."""

    class Clock:
        seconds, whole_step = 0.0, None

        def __call__(self) -> float:
            return self.seconds

        def spend(self, photographs, num_gaussians):
            pixels = sum(len(group) * group.cameras.width * group.cameras.height for group in photographs)
            views = sum(map(len, photographs))
            updated = PIXELS_OF_AN_UPDATE * num_gaussians
            cost = pixels + views * PIXELS_OF_A_SPLAT * num_gaussians + updated
            if self.whole_step is None:
                self.whole_step = VIEWS * (208 * 160 + PIXELS_OF_A_SPLAT * num_gaussians) + updated
            self.seconds += cost / self.whole_step

    clock, step_loss, grow_scene = Clock(), L2OModel.step_loss, pipeline_room.grow_scene

    def counted_step_loss(model, shown, *args, **kwargs):
        clock.spend(shown, model.num_points)
        return step_loss(model, shown, *args, **kwargs)

    def counted_grow_scene(optimizer, looked_at, *args, **kwargs):
        clock.spend(looked_at, len(optimizer.gaussians))
        grow_scene(optimizer, looked_at, *args, **kwargs)

    monkeypatch.setitem(trainer_room.CLOCKS, "wall", clock)
    monkeypatch.setattr(L2OModel, "step_loss", counted_step_loss)
    monkeypatch.setattr(pipeline_room, "grow_scene", counted_grow_scene)
    return clock


def test_a_run_is_that_of_ns_train_bit_for_bit(capture, tmp_path, counted_clock):
    numbers = np.random.default_rng(1).uniform(-0.3, 0.3, len(NAMES))
    controller = Controller(numbers)
    save_weights(tmp_path / "mine", controller.to_weights(WeightsCard("controller", {"numbers": list(NAMES)})))
    config = method_config(capture, tmp_path / "out", "l2o-adam-tuned")
    config.max_num_iterations, config.seconds, config.preset = None, BUDGET, "fast"
    config.optimizers["gaussians"]["optimizer"].horizon = None
    config.pipeline.datamanager.views_per_step = VIEWS
    config.schedule.controller = str(tmp_path / "mine.safetensors")
    trainer = train(config)

    read = read_training_capture(capture, PARSER)
    training, held_out = split_views(read.views.cameras.centres.numpy(), "all")
    start = trainer.pipeline._start.gaussians
    run = BudgetedRun(
        start, ReducedPhotographs.of(read.views[training]), read.views[held_out], BUDGET, VIEWS, controller
    )
    (psnr,) = run.psnr_at([1.0])
    assert run.step == trainer.completed_step + 1 > 10
    assert len({entry[1] for entry in run.schedule.stages}) > 1 and run.schedule.events_done == 5
    trained = trainer.pipeline.model.gauss_params
    for name in FIELDS:
        assert torch.equal(getattr(run.optimizer.gaussians, name), trained[name].detach()), name
    assert psnr == pytest.approx(trainer.pipeline.get_average_eval_image_metrics()["psnr"], abs=0.02)
