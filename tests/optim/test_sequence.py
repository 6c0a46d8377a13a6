import pytest
import torch

from l2o_splat.gaussians import FIELDS
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.rule import Needs, RenderedViews, RuleState, UpdateRule
from l2o_splat.optim.sequence import SequencedRule
from l2o_splat.views import PinholeCameras, Views
from tests.optim.rules import backward, make_parameters
from tests.optim.test_joint_optimizer import train


def adam(preset="gsplat"):
    return AdamRule(adam_options(preset, horizon=50))


def test_the_second_rule_starts_afresh_where_the_first_ended():
    sequenced = make_parameters()
    train(sequenced, JointOptimizer(sequenced, SequencedRule(adam(), adam("own-scale"), 4)), range(9))
    by_hand = make_parameters()
    train(by_hand, JointOptimizer(by_hand, adam()), range(4))
    train(by_hand, JointOptimizer(by_hand, adam("own-scale")), range(4, 9))
    for field in FIELDS:
        assert torch.equal(sequenced[field], by_hand[field])


def test_both_rules_and_the_switch_are_part_of_the_fingerprint():
    prints = {
        SequencedRule(adam(), adam("x5"), 4).fingerprint,
        SequencedRule(adam(), adam("x5"), 5).fingerprint,
        SequencedRule(adam("x5"), adam(), 4).fingerprint,
    }
    assert len(prints) == 3


def test_a_switch_before_the_first_step_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        SequencedRule(adam(), adam(), 0)


class RenderRule(UpdateRule):
    """Adds the mean error of the renders, and uses nothing else."""

    fingerprint = "renders"
    needs = Needs(renders=((0, None),))

    def init_state(self, start):
        return RuleState({"seen": torch.zeros(len(start.gaussians), 1)})

    def forward(self, gaussians, feedback, state):
        assert feedback.gradients is None
        error = (feedback.rendered.images - feedback.rendered.views.images).mean()
        return gaussians.map(lambda value: error.expand_as(value)), state


def test_renders_reach_the_first_rule_and_gradients_the_second():
    cameras = PinholeCameras(torch.eye(4)[None], torch.eye(3)[None], 4, 4)
    shown = RenderedViews(Views(cameras, torch.zeros(1, 4, 4, 3)), torch.full((1, 4, 4, 3), 0.5))
    parameters, start = make_parameters(), make_parameters()
    optimizer = JointOptimizer(parameters, SequencedRule(RenderRule(), adam(), 2))
    optimizer.check_scene()
    for step in range(2):
        assert optimizer.feedback_kind == "renders"
        optimizer.rendered = shown
        # Gradients of other losses do not matter, not even broken ones.
        backward(parameters, seed=step)
        parameters["means"].grad[0] = float("nan")
        optimizer.step()
        assert optimizer.rendered is None, "renders of one step would be shown in the next"
    for field in FIELDS:
        torch.testing.assert_close(parameters[field], start[field] + 1.0)
    assert optimizer.feedback_kind == "gradients"
    by_hand = make_parameters()
    with torch.no_grad():
        for field in FIELDS:
            by_hand[field].copy_(parameters[field])
    train(by_hand, JointOptimizer(by_hand, adam()), range(3))
    train(parameters, optimizer, range(3))
    assert all(torch.equal(parameters[field], by_hand[field]) for field in FIELDS)


class RecordingRule(UpdateRule):
    """Moves nothing and notes what it is told of the budget."""

    fingerprint = "records"

    def __init__(self):
        super().__init__()
        self.told = []

    def init_state(self, start):
        return RuleState({"rows": torch.zeros(len(start.gaussians), 1)})

    def forward(self, gaussians, feedback, state):
        self.told.append(feedback.progress)
        return gaussians.map(torch.zeros_like), state


def take_steps(optimizer, parameters, spent):
    for seed, progress in enumerate(spent):
        backward(parameters, seed=seed)
        optimizer.progress = progress
        optimizer.step()


def test_what_is_left_of_the_budget_is_that_of_the_second_rule():
    first, second, parameters = RecordingRule(), RecordingRule(), make_parameters()
    optimizer = JointOptimizer(parameters, SequencedRule(first, second, 2))
    take_steps(optimizer, parameters, [0.1, 0.15, 0.2, 0.6])
    assert first.told == [0.1, 0.15]
    assert second.told == pytest.approx([0.0, 0.5])
    # A resumed run, and one that grows, go on so.
    saved, second = optimizer.state_dict(), RecordingRule()
    resumed = JointOptimizer(parameters, SequencedRule(RecordingRule(), second, 2))
    resumed.load_state_dict(saved)
    take_steps(resumed, parameters, [0.8])
    resumed.resize(resumed.gaussians, torch.arange(24), torch.arange(24) > 20)
    take_steps(resumed, parameters, [1.0])
    assert second.told == pytest.approx([0.75, 1.0])


def test_a_run_without_a_budget_tells_the_second_rule_of_none():
    second, parameters = RecordingRule(), make_parameters()
    take_steps(JointOptimizer(parameters, SequencedRule(RecordingRule(), second, 1)), parameters, [None] * 3)
    assert second.told == [None, None]
