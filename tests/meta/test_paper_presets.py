"""The presets of Learn2Splat's meta-training hold the numbers of its code and launch scripts."""

import pytest
import torch
import tyro

from l2o_splat.commands.meta_train import MetaTrainCommand
from l2o_splat.commands.presets import parse_with_preset
from l2o_splat.meta.options import BufferOptions, MetaOptions
from l2o_splat.meta.presets import find_preset
from l2o_splat.meta.rules import GainRuleOptions, PaperRuleOptions
from l2o_splat.scene import SceneStart
from l2o_splat.training.errors import TrainingError
from tests.optim.test_learn2splat_rule import feedback, scene


@pytest.mark.parametrize("name", ["paper-dense", "paper-sparse"])
def test_the_recipe_is_that_of_the_paper(name):
    training, rule = find_preset(name)
    assert training.iterations == 150_000
    assert (training.learning_rate, training.weight_decay, training.warm_up, training.clip_norm) == (
        1e-4,
        0.01,
        0.01,
        0.5,
    )
    assert training.unroll_steps == (1, 6)
    assert (training.rollout_steps, training.rollout_draw) == (50, "uniform")
    assert training.rollout_growth * training.iterations == pytest.approx(10_000)
    assert training.buffer == BufferOptions(20, 0.7, 0.7, 0.99, clear_every=20_000)
    objective, terms = training.objective, training.terms
    assert (objective.ssim_weight, objective.perceptual_weight, objective.relative) == (0.0, 0.5, False)
    assert (terms.discount, terms.uphill, terms.uphill_start, terms.stability) == (0.9, 2.0, 100, 1.0)
    assert (terms.context_views, terms.context_stability, terms.foresight) == (4, True, 0.0)
    assert (training.loop.raster.rasterize_mode, training.loop.raster.eps2d) == ("classic", 1e-4)
    assert (training.loop.ssim_weight, training.loop.max_active) == (0.2, 100_000)
    episode = training.episode
    assert (episode.target_views, episode.views_per_step, episode.flip_probability) == (6, (8, 8), 0.5)
    assert (episode.kept_points, episode.max_points, episode.drop_black, episode.sh_degree) == (
        (0.1, 1.0),
        70_000,
        True,
        3,
    )
    expected = {"paper-dense": ("points", (64, 64)), "paper-sparse": ("resplat", (8, 8))}
    assert (episode.start, episode.context_views) == expected[name]
    assert rule == PaperRuleOptions(width=256, blocks=4, neighbours=4, sh_degree=3, state_scale=True)


def test_the_released_width_has_the_released_number_of_weights():
    for feature_width, expected in ((None, 2_617_061), (256, 2_682_853)):
        with torch.device("meta"):
            shape = PaperRuleOptions(width=4).build(feature_width).network.shape
            assert shape.feature_width == feature_width
        network = PaperRuleOptions().build(feature_width).network
        assert sum(weights.numel() for weights in network.parameters()) == expected


def test_any_width_can_be_built_and_the_state_scale_left_out():
    whole, without = (PaperRuleOptions(width=16, state_scale=given).build().network for given in (True, False))
    shape = type(whole.shape).of(whole.state_dict())
    assert (shape.latent_width, shape.attention_width, shape.hidden_width) == (16, 4, 64)
    assert not any(name.startswith("state_scale_head") for name in without.state_dict())
    assert type(without.shape).of(without.state_dict()) == without.shape
    with pytest.raises(TrainingError, match="width is 18"):
        PaperRuleOptions(width=18)
    with pytest.raises(TrainingError, match="rule.start is adam: The latent width is 16"):
        PaperRuleOptions(width=16, start="adam").build()


def test_without_the_state_scale_steps_follow_the_unscaled_state():
    """As if the State Scale MLP had answered 1 everywhere."""
    rule = PaperRuleOptions(width=16).build()
    plain = PaperRuleOptions(width=16, state_scale=False).build()
    torch.manual_seed(0)
    for weights in rule.network.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    torch.nn.init.zeros_(rule.network.state_scale_head[2].weight)
    torch.nn.init.ones_(rule.network.state_scale_head[2].bias)
    plain.network.load_state_dict(
        {name: value for name, value in rule.network.state_dict().items() if "state_scale" not in name}
    )
    gaussians = scene()
    steps = []
    for each in (rule, plain):
        delta, _ = each(gaussians, feedback(), each.init_state(SceneStart(gaussians)))
        steps.append(delta.pack())
    assert steps[0].abs().max() > 1e-4
    torch.testing.assert_close(*steps)


def test_an_untrained_rule_of_the_paper_moves_nothing():
    rule = PaperRuleOptions(width=16).build()
    gaussians = scene()
    proposal = rule.propose(gaussians, feedback(), rule.init_state(SceneStart(gaussians)))
    assert proposal.step.abs().max() == 0


def test_a_preset_sets_the_defaults_and_an_option_changes_one():
    words = ["--out", "run", "--preset", "paper-sparse", "--rule.width", "64", "--training.iterations", "500"]
    command = parse_with_preset(MetaTrainCommand, "l2o meta-train", words)
    assert command.rule == PaperRuleOptions(width=64)
    assert command.training.iterations == 500
    assert command.training.episode.start == "resplat"
    plain = parse_with_preset(MetaTrainCommand, "l2o meta-train", ["--out", "run"])
    assert (plain.training, plain.rule) == (MetaOptions(), GainRuleOptions())
    assert parse_with_preset(MetaTrainCommand, "l2o meta-train", ["--out", "run", "--preset=gain"]) == plain


def test_an_unknown_preset_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        parse_with_preset(MetaTrainCommand, "l2o meta-train", ["--out", "run", "--preset", "paper"])
    assert "paper-dense" in capsys.readouterr().err
    assert MetaTrainCommand.of_preset("paper-dense").out is tyro.MISSING


def test_without_any_option_the_one_that_is_needed_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_with_preset(MetaTrainCommand, "l2o meta-train", [])
    assert "--out" in capsys.readouterr().err
