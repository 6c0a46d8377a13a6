"""The parts of the proof, in the order in which they run: what others depend on first."""

from __future__ import annotations

from l2o_splat.prove.part import Part
from l2o_splat.prove.parts.backends import BACKENDS
from l2o_splat.prove.parts.benchmarks import BENCHMARKS
from l2o_splat.prove.parts.compilation import COMPILATION
from l2o_splat.prove.parts.facts import FACTS
from l2o_splat.prove.parts.garden import GARDEN
from l2o_splat.prove.parts.golden import GOLDEN
from l2o_splat.prove.parts.gpu_tests import GPU_TESTS
from l2o_splat.prove.parts.lead import LEAD
from l2o_splat.prove.parts.memory import MEMORY
from l2o_splat.prove.parts.methods import METHODS
from l2o_splat.prove.parts.step_time import STEP_TIME
from l2o_splat.prove.parts.weights import WEIGHTS

PARTS: tuple[Part, ...] = (
    FACTS,
    COMPILATION,
    BACKENDS,
    GPU_TESTS,
    METHODS,
    STEP_TIME,
    MEMORY,
    WEIGHTS,
    *BENCHMARKS,
    GOLDEN,
    GARDEN,
    *LEAD,
)


def part_named(name: str) -> Part:
    """The part of a name.

    Raises:
        KeyError: If there is none.
    """
    return {part.name: part for part in PARTS}[name]
