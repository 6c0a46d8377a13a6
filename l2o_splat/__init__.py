"""Learned optimization for 3D Gaussian Splatting, as a nerfstudio plugin and as a library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2o_splat.optim.learned_optimizer import LearnedOptimizer

__version__ = "0.1.0"
__all__ = ["LearnedOptimizer", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported at first use: `import l2o_splat` must not load torch.
    if name == "LearnedOptimizer":
        from l2o_splat.optim.learned_optimizer import LearnedOptimizer

        return LearnedOptimizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
