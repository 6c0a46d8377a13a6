import pytest
import torch

from l2o_splat.gaussians import FIELDS
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.sequence import SequencedRule
from tests.optim.test_joint_optimizer import make_parameters, train


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
