"""The average of the last scenes: which it is, and that it never changes what is optimized."""

import copy

import pytest
import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.averaged_scene import weight_of_newest
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.scene import SceneKnowledge
from tests.optim.rules import backward, make_parameters


def started(averages: bool = True):
    parameters = make_parameters()
    optimizer = JointOptimizer(parameters, AdamRule(adam_options("own-scale", 20, 1.0)))
    optimizer.bind(SceneKnowledge(torch.randn(5, 3, generator=torch.Generator().manual_seed(1))))
    if averages:
        optimizer.keep_average()
    return parameters, optimizer


def take(parameters, optimizer, steps, reach: float = 4.0) -> list[Gaussians]:
    scenes = []
    for step in steps:
        backward(parameters, seed=step)
        optimizer.step()
        scenes.append(optimizer.gaussians.map(torch.clone))
        if optimizer.average is not None:
            optimizer.follow_average(reach)
    return scenes


def shown(optimizer) -> Gaussians:
    optimizer.average.show(True)
    found = optimizer.gaussians.map(torch.clone)
    optimizer.average.show(False)
    return found


def assert_same(first: Gaussians, second: Gaussians, **tolerance) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(first, name), getattr(second, name), **tolerance or {"rtol": 0, "atol": 0})


def test_late_weights_fall_off_exponentially_and_early_ones_reach_over_a_share_of_the_steps():
    assert weight_of_newest(0, 4) == 1
    assert weight_of_newest(16, 4) == weight_of_newest(1000, 1) == 1 / 2
    assert weight_of_newest(64, 4) == weight_of_newest(10_000, 4) == 1 / 5
    assert weight_of_newest(100, 0) == 1


def test_it_is_the_weighted_mean_of_the_scenes_and_changes_none_of_them():
    parameters, optimizer = started()
    scenes = take(parameters, optimizer, range(100))
    plain = take(*started(averages=False), range(100))
    for averaged, alone in zip(scenes, plain, strict=True):
        assert_same(averaged, alone)
    weights, rest = [], 1.0
    for taken in reversed(range(100)):
        weights.append(rest * weight_of_newest(taken, 4.0))
        rest *= 1 - weight_of_newest(taken, 4.0)
    assert sum(weights) == pytest.approx(1)
    means = sum(weight * scene.means for weight, scene in zip(reversed(weights), scenes, strict=True))
    torch.testing.assert_close(shown(optimizer).means, means, rtol=1e-5, atol=1e-6)
    assert_same(optimizer.gaussians, scenes[-1])


def test_it_takes_back_the_noise_of_steps():
    generator, noise = torch.Generator().manual_seed(0), []
    parameters, optimizer = started()
    for taken in range(400):
        parameters["means"].data = torch.randn(24, 3, generator=generator)
        optimizer.param_groups[0]["step"] = taken + 1
        optimizer.follow_average(4.0)
        noise.append(shown(optimizer).means)
    # The variance of an exponential average of independent numbers is weight / (2 - weight).
    assert torch.stack(noise[100:]).var().item() == pytest.approx(0.2 / 1.8, rel=0.1)


def test_what_is_kept_and_what_is_split_move_from_their_averages():
    parameters, optimizer = started()
    take(parameters, optimizer, range(10))
    before, scene = shown(optimizer), optimizer.gaussians.map(torch.clone)
    source = torch.tensor([3, 1, 1, 5])
    grown = scene[source]
    grown.means[2] += 0.5
    optimizer.resize(grown, source, torch.zeros(4, dtype=torch.bool))
    after = shown(optimizer)
    assert_same(after[torch.tensor([0, 1, 3])], before[torch.tensor([3, 1, 5])])
    torch.testing.assert_close(after.means[2], before.means[1] + 0.5)


def test_no_step_changes_the_average_while_it_is_shown():
    parameters, optimizer = started()
    take(parameters, optimizer, range(3))
    optimizer.average.show(True)
    backward(parameters, seed=3)
    with pytest.raises(RuntimeError, match="hold the average of the last scenes"):
        optimizer.step()


@pytest.mark.parametrize("saved_shown", [True, False])
def test_a_run_goes_on_whichever_of_both_the_parameters_held_when_they_were_saved(saved_shown):
    parameters, optimizer = started()
    take(parameters, optimizer, range(12))
    optimizer.average.show(saved_shown)
    saved = copy.deepcopy((optimizer.state_dict(), {name: value.data for name, value in parameters.items()}))
    optimizer.average.show(False)
    take(parameters, optimizer, range(12, 20))

    def resumed(averages: bool):
        others, other = started(averages)
        for name, value in saved[1].items():
            others[name].data = value.clone()
        other.load_state_dict(copy.deepcopy(saved[0]))
        take(others, other, range(12, 20))
        return other

    assert_same(resumed(True).gaussians, optimizer.gaussians)
    assert_same(shown(resumed(True)), shown(optimizer))
    # A run without an average goes on with the scene, not with its average.
    assert_same(resumed(False).gaussians, optimizer.gaussians)
