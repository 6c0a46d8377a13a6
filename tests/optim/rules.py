"""Every update rule of the package, for the behaviour all of them share."""

from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.rule import UpdateRule


def all_rules() -> dict[str, UpdateRule]:
    """Name to rule, built small and without files."""
    return {f"adam-{preset}": AdamRule(adam_options(preset, horizon=50)) for preset in ("gsplat", "x5", "own-scale")}
