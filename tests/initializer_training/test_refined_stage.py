"""Training through the refinement: what the gradient says, and what is saved."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.initializer_training.batches import fixed_batch
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.data import SceneData
from l2o_splat.initializer_training.initial_stage import RASTER
from l2o_splat.initializer_training.networks import new_initial_model
from l2o_splat.initializer_training.options import FaultOptions, InitializerTrainingOptions, RefinementOptions
from l2o_splat.initializer_training.record import InitializerRecord
from l2o_splat.initializer_training.refined_stage import RefinedModel, RefinedStage, typical_precision
from l2o_splat.initializer_training.scenes import StoredSource
from l2o_splat.initializer_training.trainer import InitializerTrainer
from l2o_splat.initializers.diff3r import predicted_precision, read_diff3r
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.metrics import ssim
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.rendering import render
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import Schedule
from l2o_splat.training.record import changed_from
from l2o_splat.weights import Weights, WeightsCard, load_weights, save_weights
from tests.initializer_training.networks import BATCH, CONFIG, SHAPE, SOURCE

CPU = torch.device("cpu")
PERFECT = FaultOptions(exposure_probability=0.0, shake_probability=0.0, passer_by_probability=0.0)
OPTIONS = RefinementOptions(steps=(6, 6), evaluated_steps=(4, 8), faults=PERFECT)


@pytest.fixture(scope="module")
def batch():
    return fixed_batch(SOURCE.capture(0), 2, CPU)


def stage(batch, options=OPTIONS, scale=1e3) -> RefinedStage:
    initial = new_initial_model(SHAPE, CONFIG, seed=0)
    torch.manual_seed(0)
    head = UncertaintyHead(SHAPE.width, typical_precision(initial, [batch], scale))
    return RefinedStage(RefinedModel(initial, head, options.train_initial), options)


def test_no_inner_steps_train_the_prediction_as_it_is(batch):
    trained = stage(batch, replace(OPTIONS, steps=(0, 0), train_initial=True, first_share=0.0))
    loss, terms = trained.loss(batch, np.random.default_rng(0))
    loss.backward()
    with torch.no_grad():
        scene, _, target = trained.network(batch)
        shown = render(scene.gaussians, target.cameras, RASTER).rgb
    assert float(loss) == pytest.approx(float((shown - target.images).square().mean(dim=(1, 2, 3)).log().mean()))
    assert terms.image_error == terms.first_error
    assert trained.network.initial.gaussian_head[2].weight.grad.norm() > 0
    frozen = TrainInitializer(
        out=Path("unused"),
        through_optimization=True,
        weights="resplat-mini",
        refinement=RefinementOptions(steps=(0, 0)),
    )
    with pytest.raises(TrainingError, match="train it with --refinement.train-initial"):
        frozen.run()


def test_the_gradient_of_the_head_is_that_through_every_step(batch):
    """Unrolled, it is what finite differences give; the implicit one, that of the limit, nears it with the steps."""
    trained = stage(batch)
    head = trained.network.head
    torch.nn.init.normal_(head.output.weight, std=0.1)
    scene, _, target = trained.network(batch)
    scene = replace(scene, gaussians=scene.gaussians.map(torch.Tensor.double), context=scene.context.to(torch.float64))
    target = target[[0]].to(torch.float64)

    def error(mode: BackwardMode) -> torch.Tensor:
        trained.options = replace(OPTIONS, backward=mode)
        refined, status = trained.refine(scene, predicted_precision(head, scene, RASTER).double(), 12)
        assert status.failure is None
        return (render(refined, target.cameras, RASTER).rgb - target.images).square().sum()

    def gradient(mode: BackwardMode) -> torch.Tensor:
        return torch.autograd.grad(error(mode), head.output.bias)[0]

    unrolled, implicit = gradient(BackwardMode.UNROLL), gradient(BackwardMode.IMPLICIT_DAMPED)
    step, direction = 0.05, torch.nn.functional.normalize(unrolled, dim=0)
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            head.output.bias.add_(sign * step * direction)
            values.append(error(BackwardMode.IMPLICIT_DAMPED))
            head.output.bias.sub_(sign * step * direction)
    difference = float(values[0] - values[1]) / (2 * step)
    assert difference == pytest.approx(float(unrolled @ direction), rel=0.1)
    assert torch.nn.functional.cosine_similarity(unrolled, implicit, dim=0) > 0.8


@pytest.mark.parametrize("train_initial", [False, True])
def test_what_the_gradient_reaches(train_initial):
    # On this capture a few steps help target views by more than the number of threads can change.
    batch = fixed_batch(SOURCE.capture(1), 2, CPU)
    trained = stage(batch, replace(OPTIONS, train_initial=train_initial))
    torch.nn.init.normal_(trained.network.head.output.weight, std=0.1)
    loss, terms = trained.loss(batch, np.random.default_rng(0))
    loss.backward()
    assert all(parameter.grad is not None for parameter in trained.network.head.parameters())
    reached = {name for name, parameter in trained.network.initial.named_parameters() if parameter.grad is not None}
    assert ("gaussian_head.2.weight" in reached) if train_initial else not reached
    assert terms.image_error < terms.first_error and terms.gradient_ratio < 1


def test_context_images_have_faults_and_target_images_none(batch, monkeypatch):
    trained, seen = stage(batch, replace(OPTIONS, faults=replace(PERFECT, exposure_probability=1.0))), []
    shown = trained.network.forward
    monkeypatch.setattr(trained.network, "forward", lambda batch: (seen.append(batch), shown(batch))[1])
    trained.loss(batch, np.random.default_rng(0))
    assert seen[0].target is batch.target
    assert not torch.equal(seen[0].context.images, batch.context.images)


def test_a_few_steps_of_training_lower_the_loss_of_a_scene_and_leave_the_start_alone(batch):
    trained = stage(batch)
    optimizer = torch.optim.AdamW(trained.network.head.parameters(), lr=1e-2)
    before = trained.evaluate(trained.network, [batch])
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss, _ = trained.loss(batch, np.random.default_rng(0))
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 1e-4
    after = trained.evaluate(trained.network, [batch])
    assert after["psnr_0"] == before["psnr_0"] and after["psnr_adam_8"] == before["psnr_adam_8"]
    assert after["psnr_head_8"] > before["psnr_head_8"]


def test_a_step_whose_energy_rises_is_left_out(batch, monkeypatch):
    trained = stage(batch)
    refine = trained.refine

    def rising(*arguments):
        refined, status = refine(*arguments)
        return refined, replace(status, energy_after=2 * status.energy_before)

    monkeypatch.setattr(trained, "refine", rising)
    loss, terms = trained.loss(batch, np.random.default_rng(0))
    assert loss.isnan() and terms.left_out and terms.numbers()["left_out"] == 1.0


def test_a_run_leaves_weights_that_predict_what_was_trained(batch, tmp_path):
    fabric = pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    source = StoredSource(SOURCE, tmp_path / "scenes", 2)
    options = InitializerTrainingOptions(iterations=2, learning_rate=1e-2, warm_up=0.5, batch=BATCH, averaging=0.5)
    trainer = InitializerTrainer(
        fabric.Fabric(accelerator="cpu", devices=1),
        stage(batch),
        source,
        [batch],
        options,
        Schedule(evaluate_every=2, save_every=2, workers=0),
        tmp_path,
        {},
    )
    trainer.run(InitializerRecord(tmp_path, CONFIG, [{"iterations": 7}]))
    weights = load_weights(tmp_path / "best.safetensors", "diff3r")
    assert weights.card.training["before"] == [{"iterations": 7}]
    assert {"psnr_0", "psnr_head_8", "psnr_heuristic_exposed_4"} <= weights.card.training["validation"].keys()
    initial, head = read_diff3r(weights)
    trained = trainer.average.module
    for name, tensor in trained.head.state_dict().items():
        assert torch.equal(head.state_dict()[name], tensor), name
    assert head.output.weight.any()
    model = ReSplatInitializer.from_weights(initial)
    assert model.config == CONFIG
    scene = model(batch.context, 1.0, batch.depth_range)
    _, expected, _ = trained(batch)
    found = predicted_precision(head, scene, RASTER)
    # Networks work in their own units, in which the means' precision is another number; halves are rounded.
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=0.05, atol=0)


def test_it_needs_an_initial_model(tmp_path):
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    with pytest.raises(TrainingError, match="trains on top of an initial model and none is named"):
        TrainInitializer(tmp_path, through_optimization=True).run()
    with pytest.raises(ValueError, match="first_order, which lets no precision learn"):
        RefinementOptions(backward=BackwardMode.FIRST_ORDER)


@pytest.mark.parametrize("error", ["mse", "l1-ssim"])
def test_the_error_of_target_views_is_the_one_named(batch, error):
    trained = stage(batch, replace(OPTIONS, error=error))
    scene, _, target = trained.network(batch)
    rendered = render(scene.gaussians, target.cameras, RASTER).rgb
    found = float(trained.error(scene.gaussians, target).detach())
    if error == "mse":
        assert found == pytest.approx(float((rendered - target.images).square().mean()), rel=1e-5)
    else:
        view_errors = [
            0.8 * float((one - other).abs().mean()) + 0.2 * (1 - ssim(one, other))
            for one, other in zip(rendered.detach(), target.images, strict=True)
        ]
        assert found == pytest.approx(float(np.mean(view_errors)), rel=1e-2)


def test_step_counts_are_drawn_evenly_or_by_their_logarithm():
    counts = {}
    for drawn in ("uniform", "log-uniform"):
        options = replace(OPTIONS, steps=(10, 1000), drawn=drawn)
        counts[drawn] = [options.drawn_steps(np.random.default_rng(seed)) for seed in range(200)]
        assert min(counts[drawn]) >= 10 and max(counts[drawn]) <= 1000
    assert 400 < np.median(counts["uniform"]) < 620 and 60 < np.median(counts["log-uniform"]) < 160


def test_only_what_predicts_precisions_and_gaussians_has_the_fast_rate(batch):
    trained = stage(batch, replace(OPTIONS, train_initial=True))
    slow = set(trained.backbone())
    fast = {name for name, parameter in trained.network.named_parameters() if parameter not in slow}
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in fast} == {
        "initial.gaussian_head",
        "head.hidden",
        "head.output",
    }


def test_training_goes_on_with_the_head_of_diff3r_weights(batch, tmp_path):
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    trained = stage(batch)
    torch.nn.init.normal_(trained.network.head.output.weight, std=0.1)
    initial = Weights(
        {f"encoder.{name}": tensor for name, tensor in trained.network.initial.state_dict().items()},
        WeightsCard("resplat", {}, behaviour=changed_from(asdict(ReSplatConfig()), asdict(CONFIG))),
    )
    save_weights(tmp_path / "held", trained.network.head.to_weights(initial))
    TrainInitializer(
        tmp_path / "more",
        through_optimization=True,
        weights=str(tmp_path / "held"),
        refinement=OPTIONS,
        training=InitializerTrainingOptions(iterations=1, learning_rate=1e-12, weight_decay=0.0, batch=BATCH),
        data=SceneData(captures=1, folder=tmp_path / "scenes", options=SOURCE.options, validation_captures=1),
        schedule=Schedule(evaluate_every=1, save_every=1, workers=0),
    ).run()
    _, head = read_diff3r(load_weights(tmp_path / "more" / "best.safetensors", "diff3r"))
    torch.testing.assert_close(head.output.weight, trained.network.head.output.weight)
    assert torch.equal(head.reference, trained.network.head.reference)
