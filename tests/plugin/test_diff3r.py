"""DIFF3R's refinement through nerfstudio's own trainer, from points and from narrow random networks."""

import math
import re

import pytest
import torch
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.plugins.registry import discover_methods
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.implicit.heuristic import heuristic_precision
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.initializers.context_views import choose_context
from l2o_splat.initializers.diff3r import read_diff3r
from l2o_splat.optim.adam import OWN_SCALE, AdamRule
from l2o_splat.optim.precision import per_channel
from l2o_splat.optim.rule import Feedback, RuleState
from l2o_splat.plugin import starts
from l2o_splat.plugin.pipeline import L2OPipeline
from l2o_splat.plugin.run_plan import resolve
from l2o_splat.ply import read_ply
from l2o_splat.rendering import render
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.schedule.presets import PRESETS
from l2o_splat.weights import Weights, WeightsCard, load_weights, save_weights
from tests.plugin.captures import HEIGHT, WIDTH, edit_transforms, last_checkpoint, method_config, train
from tests.plugin.console import printed, refuse
from tests.plugin.test_time_budget import stepped_clock, timed_config
from tests.resplat_networks import NARROW, OPTIONS, initializer

__all__ = ["stepped_clock"]

RASTER = {"rasterize_mode": "antialiased", "eps2d": 0.1, "image_rules": "1.5"}
REFERENCE = torch.tensor([0.5, 2.0, 0.1, 1.0, 4.0])
PREDICTED = 3 * 256
"""Gaussians from 3 context views, which are enlarged to 64 x 64."""


def diff3r_config(capture, output, steps=3, prox_scale=1.0, num_views=4):
    config = method_config(capture, output, "diff3r", steps)
    config.optimizers["gaussians"]["optimizer"].prox_scale = prox_scale
    config.pipeline.initialization.source = "auto"
    config.pipeline.initialization.context.num_views = num_views
    return config


def state_of(trainer) -> RuleState:
    return trainer.optimizers.optimizers["gaussians"].rule_state


def anchor_of(trainer) -> Gaussians:
    state = state_of(trainer)
    return Gaussians(**{name: state[f"anchor.{name}"] for name in FIELDS})


def context_of(datamanager, num_views=4):
    centres = datamanager.train_dataparser_outputs.cameras.camera_to_worlds[:, :3, 3]
    return datamanager.train_views(choose_context(centres, num_views), torch.zeros(3))


def by_hand(trainer, steps, weight):
    """Adam with the rates of adam-own-scale on the mean squared difference and ``weight`` times the proximal term."""
    datamanager, state, anchor = trainer.pipeline.datamanager, state_of(trainer), anchor_of(trainer)
    context, settings = context_of(datamanager), trainer.pipeline.model.raster_settings()
    extent = SceneKnowledge(datamanager.train_dataparser_outputs.cameras.camera_to_worlds[:, :3, 3]).extent
    rule, gaussians = AdamRule(OWN_SCALE), anchor
    moments, pull = (
        rule.init_state(SceneStart(gaussians)),
        per_channel(state["precision"], anchor.features_rest.shape[1]),
    )
    for step in range(steps):
        leaves = gaussians.map(lambda tensor: tensor.clone().requires_grad_())
        difference = render(leaves, context.cameras, settings).rgb - context.images
        loss = difference.square().mean(dim=(1, 2, 3)).sum()
        loss = loss + weight * (pull * (leaves.pack() - anchor.pack()).square()).sum()
        gradients = torch.autograd.grad(loss, [leaf for _, leaf in leaves.items()])
        delta, moments = rule(gaussians, Feedback(Gaussians(*gradients), step, extent), moments)
        gaussians = gaussians.zip_map(torch.add, delta)
    return gaussians


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Path of narrow weights with a head that does not say the same everywhere."""
    torch.manual_seed(0)
    head = UncertaintyHead(NARROW.width, REFERENCE)
    torch.nn.init.normal_(head.output.weight, std=0.3)
    tensors = {f"encoder.{name}": tensor for name, tensor in initializer().model.state_dict().items()}
    card = WeightsCard("resplat", {}, OPTIONS | {"context_views": 3, "fit": "enlarge"}, dict(RASTER))
    path = tmp_path_factory.mktemp("weights") / "narrow"
    save_weights(path, head.to_weights(Weights(tensors, card)))
    return str(path)


def test_the_method_is_found_with_the_loss_that_precisions_are_made_for():
    config = discover_methods()[0]["diff3r"]
    assert config.optimizers["gaussians"]["optimizer"].rule == "proximal-own-scale"
    assert config.pipeline.model.loss == "squared"
    assert config.pipeline.initialization.source == "diff3r"


def test_it_starts_from_the_weights_of_the_package(tiny_capture, tmp_path, capsys):
    config = method_config(tiny_capture, tmp_path / "out", "diff3r", steps=2)
    trainer = train(config)
    text, model = printed(capsys), trainer.pipeline.model
    assert "starts from 7 of 7 training views" in text and "diff3r-mini (" in text
    assert "Heuristic precision" not in text and state_of(trainer)["precision"].equal(model.precision)
    # The head does not say the same everywhere, and not what it said untrained.
    reference = read_diff3r(load_weights("diff3r-mini"))[1].reference[1:]
    ratio = (model.precision[:, 1:] / reference).log()
    assert ratio.std(dim=0).min() > 0.05 and ratio.abs().max() < 7.1


def test_a_run_is_the_refinement_on_the_context_views_and_tells_what_it_is_worth(tiny_capture, tmp_path, capsys):
    config = diff3r_config(tiny_capture, tmp_path / "out", steps=3)
    trainer = train(config)
    model, datamanager = trainer.pipeline.model, trainer.pipeline.datamanager
    text = printed(capsys)
    assert "refined on 4 of 7 training views, all of them in every step: 00" in text
    assert "Heuristic precision" in text
    quality = {step: float(value) for step, value in re.findall(r"After (\d) steps: PSNR ([\d.]+) dB", text)}
    assert quality.keys() == {"0", "3"} and quality["3"] > quality["0"]
    anchor = anchor_of(trainer)
    context = ContextViews(context_of(datamanager), model.raster_settings())
    assert model.precision.equal(heuristic_precision(anchor, context))
    expected = by_hand(trainer, 3, weight=1 / (3 * WIDTH * HEIGHT))
    for name in FIELDS:
        torch.testing.assert_close(getattr(model.gaussians, name).detach(), getattr(expected, name), msg=name)
    assert not model.means.equal(anchor.means)


def test_without_pull_it_is_adam_and_an_infinite_pull_keeps_the_start(tiny_capture, tmp_path):
    free = train(diff3r_config(tiny_capture, tmp_path / "free", steps=4, prox_scale=0.0))
    expected = by_hand(free, 4, weight=0.0)
    for name in FIELDS:
        assert getattr(free.pipeline.model.gaussians, name).detach().equal(getattr(expected, name)), name
    away = (expected.pack() - anchor_of(free).pack()).abs().amax()
    assert away > 0.01
    held = train(diff3r_config(tiny_capture, tmp_path / "held", steps=4, prox_scale=math.inf))
    assert held.pipeline.model.gaussians.pack().equal(anchor_of(free).pack())


def test_resuming_equals_an_uninterrupted_run_bit_for_bit_and_keeps_the_anchor(tiny_capture, tmp_path):
    whole = diff3r_config(tiny_capture, tmp_path / "whole", steps=5)
    train(whole)
    first = diff3r_config(tiny_capture, tmp_path / "first", steps=3)
    start = anchor_of(train(first))
    second = diff3r_config(tiny_capture, tmp_path / "second", steps=2)
    second.load_dir = first.get_checkpoint_dir()
    trainer = train(second)
    assert anchor_of(trainer).pack().equal(start.pack()), "the anchor was taken anew"
    assert not trainer.pipeline.model.gaussians.pack().equal(start.pack())
    uninterrupted, resumed = (torch.load(last_checkpoint(run), weights_only=True) for run in (whole, second))
    for name in (*(f"gauss_params.{field}" for field in FIELDS), "precision"):
        saved, expected = (content["pipeline"][f"_model.{name}"] for content in (resumed, uninterrupted))
        assert saved.equal(expected), name
    state, expected = (
        content["optimizers"]["gaussians"]["state"][0]["per_gaussian"] for content in (resumed, uninterrupted)
    )
    assert state.keys() == expected.keys() and {"precision", "anchor.means", "anchor.features_rest"} <= state.keys()
    assert all(state[name].equal(expected[name]) for name in state)
    # With another strength it is another problem.
    third = diff3r_config(tiny_capture, tmp_path / "third", steps=1, prox_scale=2.0)
    third.load_dir = first.get_checkpoint_dir()
    with pytest.raises(SystemExit, match="anchored with weight .* resume with the same rule"):
        train(third)


def test_a_run_resumed_with_another_start_goes_on_with_the_scene_of_the_checkpoint(tiny_capture, tmp_path):
    first = diff3r_config(tiny_capture, tmp_path / "first", steps=2)
    train(first)
    second = diff3r_config(tiny_capture, tmp_path / "second", steps=1)
    second.pipeline.initialization.num_points = 30
    second.load_dir = first.get_checkpoint_dir()
    trainer = train(second)
    assert trainer.pipeline.model.num_points == len(state_of(trainer)["precision"]) == 60


@pytest.mark.parametrize("kind", ["precision", "laplace"])
def test_evaluation_viewer_and_export_need_only_the_checkpoint(tiny_capture, tmp_path, kind):
    config = diff3r_config(tiny_capture, tmp_path / "out", steps=2)
    config.pipeline.model.uncertainty = kind
    trainer = train(config)
    model = trainer.pipeline.model
    parse_object(trainer.pipeline, ViewerElement, "pipeline")
    camera, _ = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    model.eval()
    outputs = model.get_outputs_for_camera(camera)
    uncertainty = outputs["uncertainty"]
    assert uncertainty.shape == (HEIGHT, WIDTH, 1) == (*outputs["rgb"].shape[:2], 1)
    assert uncertainty.min() >= 0 and uncertainty.max() <= 1 and uncertainty.std() > 0.01
    assert not uncertainty[outputs["accumulation"] == 0].any()
    if kind == "laplace":
        context = ContextViews(context_of(trainer.pipeline.datamanager), model.raster_settings())
        diagonal = context.linearize(model.gaussians.detach()).view_diagonals(4, 0).sum(dim=0)
        torch.testing.assert_close(model.curvature[:, 1], diagonal[:, Gaussians.columns("scales")].mean(dim=1))
        assert (model.curvature > 0).any()
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    again = pipeline.model.get_outputs_for_camera(camera)
    assert again["rgb"].equal(outputs["rgb"]) and again["uncertainty"].equal(uncertainty)
    ExportGaussianSplat(load_config=config.get_base_dir() / "config.yml", output_dir=tmp_path / "ply").main()
    assert len(read_ply(tmp_path / "ply/splat.ply")) == model.num_points


def test_other_methods_have_no_uncertainty(tiny_capture, tmp_path):
    trainer = train(method_config(tiny_capture, tmp_path / "out", "l2o-adam", steps=1))
    camera, _ = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    assert "uncertainty" not in trainer.pipeline.model.get_outputs_for_camera(camera)


def test_a_network_predicts_start_and_precision(tiny_capture, tmp_path, weights, capsys):
    config = diff3r_config(tiny_capture, tmp_path / "out", steps=2, num_views=None)
    config.pipeline.initialization.source = "diff3r"
    config.pipeline.initialization.weights = weights
    trainer = train(config)
    model, text = trainer.pipeline.model, printed(capsys)
    assert "ReSplat starts from 3 of 7 training views" in text and "Heuristic" not in text
    assert model.num_points == PREDICTED and model.raster_settings().rasterize_mode == "antialiased"
    precision = state_of(trainer)["precision"]
    assert precision.equal(model.precision)
    ratio = precision[:, 1:] / REFERENCE[1:]
    assert ratio.std() > 0.01 and (ratio.log().abs() < 7.1).all()
    # The context is what the network saw, and so is the size that the weight is calibrated to.
    assert f"weight {1 / (3 * 64 * 64)!r}" in trainer.optimizers.optimizers["gaussians"].rule.fingerprint
    # The scene of the same initial model is held by a heuristic precision where no head is named.
    parts = load_weights(weights)
    tensors = {name: tensor for name, tensor in parts.tensors.items() if not name.startswith("uncertainty_head.")}
    card = WeightsCard("resplat", {}, parts.card.behaviour, parts.card.raster)
    save_weights(tmp_path / "initial", Weights(tensors, card))
    config = diff3r_config(tiny_capture, tmp_path / "resplat", steps=1, num_views=None)
    config.pipeline.initialization.source = "resplat"
    config.pipeline.initialization.weights = str(tmp_path / "initial")
    other = train(config)
    assert "Heuristic precision" in printed(capsys)
    assert anchor_of(other).pack().equal(anchor_of(trainer).pack())
    assert not state_of(other)["precision"].equal(precision)


def test_weights_without_a_sound_head(tiny_capture, tmp_path, weights):
    def with_tensors(name, **changed):
        tensors = {key: value for key, value in good.tensors.items() if key not in changed}
        tensors |= {key: value for key, value in changed.items() if value is not None}
        save_weights(tmp_path / name, Weights(tensors, good.card))
        return str(tmp_path / name)

    good = load_weights(weights)
    config = diff3r_config(tiny_capture, tmp_path / "out", num_views=None)
    config.pipeline.initialization.source = "diff3r"
    reference, hidden = "uncertainty_head.reference", "uncertainty_head.hidden.weight"
    for path, expected in (
        (with_tensors("none", **{reference: None}), "hold no uncertainty head"),
        (with_tensors("zero", **{reference: torch.zeros(5)}), "one finite positive number is needed for each of mean"),
        (with_tensors("other", **{hidden: torch.zeros(8, 8, 3, 3)}), r"hidden.weight' .* has shape \(8, 8, 3, 3\)"),
        ("random:0", "are of learn2splat; diff3r weights are needed"),
    ):
        config.pipeline.initialization.weights = path
        refuse(config, expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda precision: precision.neg(), "not finite and positive .60 of mean, .*; add a floor"),
        (lambda precision: precision.fill_(math.nan), "not finite and positive"),
        (lambda precision: precision[:-1], r"precision has shape \(59, 5\) for 60 Gaussians"),
    ],
)
def test_a_precision_that_cannot_hold(tiny_capture, tmp_path, monkeypatch, change, expected):
    measure = starts.heuristic_precision
    monkeypatch.setattr(starts, "heuristic_precision", lambda *arguments: change(measure(*arguments)))
    refuse(diff3r_config(tiny_capture, tmp_path / "out"), expected)


def test_options_that_do_not_go_together(tiny_capture, tmp_path):
    def config(**options):
        made = diff3r_config(tiny_capture, tmp_path / "out")
        for name, value in options.items():
            setattr(made.optimizers["gaussians"]["optimizer"], name, value)
        return made

    refuse(config(prox_scale=-1.0), "prox-scale is -1.0; 0 or more is needed")
    refuse(config(prox_scale=math.nan), "prox-scale is nan; 0 or more is needed")
    refuse(config(weights="random:0"), "names random:0, but the rule proximal-own-scale has none")
    random_background = config()
    random_background.pipeline.model.background_color = "random"
    refuse(random_background, "background is random.*choose a fixed colour, such as black")
    densifying = config()
    densifying.pipeline.model = SplatfactoModelConfig(background_color="black")
    refuse(densifying, "Densification is switched on.*switch it off")
    many = config()
    many.pipeline.initialization.context.num_views = 8
    refuse(many, "8 context views were asked for, and the capture has 7 training views")
    idle = config()
    idle.pipeline.initialization.context.longer_side = 32
    refuse(idle, "context.longer-side is set, but it concerns only networks")


def test_a_start_that_no_context_view_sees(tiny_capture, tmp_path):
    def far_points(meta):
        path = tiny_capture / meta["ply_file_path"]
        header, body = path.read_text().split("end_header\n")
        lines = [line.split() for line in body.splitlines()]
        moved = [" ".join([*(str(float(value) + 500) for value in line[:3]), *line[3:]]) for line in lines]
        path.write_text(f"{header}end_header\n" + "\n".join(moved) + "\n")

    edit_transforms(tiny_capture, far_points)
    refuse(diff3r_config(tiny_capture, tmp_path / "out"), "None of the 60 Gaussians is visible in the context views")


def test_a_prediction_that_is_let_go_loses_what_one_photograph_alone_shows(
    tiny_capture, tmp_path, weights, stepped_clock, monkeypatch
):
    found, thin = [], L2OPipeline._thin

    def noted(pipeline, step, scale, drawn):
        pipeline.model.gauss_params["means"].data[:100] += 1000  # Out of sight.
        before = pipeline.model.gaussians.detach().map(torch.clone)
        (photographs,) = pipeline.datamanager.photographs_by_size(range(7), torch.zeros(3), scale)
        shown = rendered_loss(before, photographs, drawn, evidence=("error",)).evidence.views
        thin(pipeline, step, scale, drawn)
        found.append(
            (pipeline._optimizer.inner_step, before, shown, pipeline.model.gaussians.detach().map(torch.clone))
        )

    monkeypatch.setattr(L2OPipeline, "_thin", noted)
    config = timed_config(tiny_capture, tmp_path / "out", 20.0, "diff3r")
    config.preset, config.schedule.growth = None, 1.0
    config.optimizers["gaussians"]["optimizer"].finish_after = 4
    config.pipeline.initialization.source, config.pipeline.initialization.weights = "diff3r", weights
    trainer = train(config)
    ((step, before, shown, after),) = found
    assert step == 4 and len(before) == PREDICTED and len(after) <= PREDICTED - 100
    assert torch.equal(after.pack(), before[shown >= 2].pack())
    assert trainer.pipeline.model.num_points <= len(after)


def test_starts_from_points_and_runs_of_the_paper_lose_nothing(tiny_capture, tmp_path):
    points = timed_config(tiny_capture, tmp_path, 20.0, "diff3r")
    points.preset, points.pipeline.initialization.source = None, "sfm"
    assert resolve(points).thinned_after is None
    predicted = timed_config(tiny_capture, tmp_path, 20.0, "diff3r")
    predicted.preset = None
    assert resolve(predicted).thinned_after == PRESETS["fast"].hand_over_after
    assert resolve(diff3r_config(tiny_capture, tmp_path)).thinned_after is None
