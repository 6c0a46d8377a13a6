"""Every update rule of the package, for the behaviour all of them share."""

import torch

from l2o_splat.frame import Frame
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.optim.safeguard import SafeguardedRule
from l2o_splat.optim.sequence import SequencedRule
from tests.optim.test_learn2splat_rule import make_rule


def all_rules() -> dict[str, UpdateRule]:
    """Name to rule, built small and without files."""
    rules: dict[str, UpdateRule] = {
        f"adam-{preset}": AdamRule(adam_options(preset, horizon=50)) for preset in ("gsplat", "x5", "own-scale")
    }
    # Latents drawn at random belong to rows, so a permuted scene starts from other ones.
    rules["learn2splat"] = make_rule(latent_init="zeros")
    rules["learn2splat-framed"] = FramedRule(rules["learn2splat"], Frame(None, torch.tensor([1.0, -2.0, 0.5]), 3.0))
    rules["safeguarded"] = SafeguardedRule(rules["learn2splat"], rules["adam-own-scale"])
    rules["sequence"] = SequencedRule(rules["learn2splat"], rules["adam-own-scale"], switch_after=4)
    return rules
