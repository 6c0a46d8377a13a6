"""Optimizer states saved by version 0.1 before rules kept numbers of the scene apart from rows of Gaussians."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.gain import GainRule
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.optim.proximal import ProximalRule
from l2o_splat.optim.rule import UpdateRule, digest_of
from l2o_splat.optim.safeguard import SafeguardedRule
from l2o_splat.optim.sequence import SequencedRule

FORMAT = 2
"""Format in which :class:`l2o_splat.optim.joint_optimizer.JointOptimizer` saves; states without a number have format 1.
"""

_OF_THE_SCENE = {"watch": "losses", "scale_origin": "scale_origin"}
"""Numbers of the scene that format 1 repeated in every row, and their names now."""
_RENAMED = {"advice": "answer"}


def migrated(state_dict: dict[str, Any], rule: UpdateRule) -> dict[str, Any]:
    """A saved state in the present format, under the present fingerprint if the rule is the one that saved it.

    Args:
        state_dict: Saved by a joint optimizer of any format; others are returned as they are.
        rule: The rule that is to go on.
    """
    first, *others = state_dict["param_groups"]
    if "rule" not in first or "format" in first:
        return state_dict
    fingerprint = rule.fingerprint if first["rule"] == _fingerprint(rule) else first["rule"]
    groups = [first | {"rule": fingerprint, "format": FORMAT}, *others]
    state = {key: two_parts(rows) for key, rows in state_dict["state"].items()}
    return state_dict | {"param_groups": groups, "state": state}


def two_parts(rows: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Rows of Gaussians and numbers of the scene; the names of nested rules have prefixes."""
    parts: dict[str, dict[str, Tensor]] = {"per_gaussian": {}, "per_scene": {}}
    for name, value in rows.items():
        prefix, _, last = name.rpartition(".")
        start = f"{prefix}." if prefix else ""
        if last in _OF_THE_SCENE and len(value):
            number = value[0] if last == "watch" else value[0, 0]
            parts["per_scene"][start + _OF_THE_SCENE[last]] = number.clone()
        else:
            parts["per_gaussian"][start + _RENAMED.get(last, last)] = value
    return parts


def _fingerprint(rule: UpdateRule) -> str:
    """The fingerprint that this rule had in format 1."""
    match rule:
        case FramedRule():
            return f"{_fingerprint(rule.rule)} in {rule.frame.describe()}"
        case ProximalRule():
            return f"[{_fingerprint(rule.rule)}] anchored with weight {rule.weight!r}"
        case SafeguardedRule():
            return f"[{_fingerprint(rule.rule)}] safeguarded by [{_fingerprint(rule.fallback)}]"
        case SequencedRule():
            first, second = _fingerprint(rule.first), _fingerprint(rule.second)
            return f"[{first}] for {rule.switch_after} steps, then [{second}]"
        case GainRule():
            config = rule.config
            return (
                f"learn2splat weights {digest_of(rule.network)} Learn2SplatConfig(neighbours={config.neighbours}, "
                f"active_only=False, knn_refresh_interval={config.knn_refresh_interval}, "
                f"log_scale_range={config.log_scale_range}, opacity_logit_limit={config.opacity_logit_limit}, "
                f"sh_limit={config.sh_limit}, cap_sh_degree=None, latent_init='zeros', use_features=False, seed=0, "
                f"precision={config.precision!r}, units='own_scale', step_decay={config.step_decay}, "
                f"look_growth={config.query_growth}, trust_decay={config.trust_decay})"
            )
        case Learn2SplatRule():
            options = repr(rule.config).removesuffix(")")
            rest = "units='training', step_decay=None, look_growth=None, trust_decay=None)"
            return f"learn2splat weights {digest_of(rule.network)} {options}, {rest}"
    return rule.fingerprint
