"""How a run spends the time it is given: a clock, and the share of the budget that is spent before each step.

Everything that changes during a run (rates, resolution, SH degree, growth) is a function of that share, and the share
is a function of the step and of a few saved numbers. A run that is resumed therefore does the same in each step as one
that was never stopped.
"""

from l2o_splat.budget.clock import BudgetClock
from l2o_splat.budget.pace import CountedPace, Pace, TimedPace

__all__ = ["BudgetClock", "CountedPace", "Pace", "TimedPace"]
