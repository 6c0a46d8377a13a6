"""The ways in which a gradient passes through the refinement."""

from __future__ import annotations

from enum import Enum


class BackwardMode(str, Enum):
    """How a gradient passes through the refinement."""

    IMPLICIT = "implicit"
    """The paper's: the implicit function theorem with the Gauss-Newton matrix. Assumes a solver that has converged."""
    IMPLICIT_DAMPED = "implicit_damped"
    """Ours: the same with a precision added that stands for stopping Adam early."""
    UNROLL = "unroll"
    """Differentiate every Adam step; the memory grows with their number, and only the torch renderer can."""
    FIRST_ORDER = "first_order"
    """Pass the gradient to the anchor as it is, as if the refinement added a constant; none to the precision."""
