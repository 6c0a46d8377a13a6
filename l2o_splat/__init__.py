"""Learned optimization for 3D Gaussian Splatting, as a nerfstudio plugin and as a library."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2o_splat.optim.learned_optimizer import LearnedOptimizer
    from l2o_splat.ply import read_ply, write_ply

__version__ = "0.1.0"
__all__ = ["LearnedOptimizer", "__version__", "read_ply", "write_ply"]

_MODULES = {
    "LearnedOptimizer": "l2o_splat.optim.learned_optimizer",
    "read_ply": "l2o_splat.ply",
    "write_ply": "l2o_splat.ply",
}
"""Imported at first use: ``import l2o_splat`` must not load torch."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
