"""Entries of ``--methods``: a registered method, its options and its label in the report."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Literal

from l2o_splat.bench.errors import BenchError

_HORIZON = re.compile(r"@(\d+)$")

BASELINES = {
    "adam-adc": "l2o-adam --preset adc",
    "l2o-sgd": "l2o-adam --optimizers.gaussians.optimizer.rule sgd",
}
"""Methods with options that have a name of their own here. ``adam-adc``: 3DGS's own growth around Adam with its own
rates, which is what people use elsewhere. ``l2o-sgd``: plain gradient descent."""

Kind = Literal["hand-made", "learned", "untrained"]
"""``learned``: some rule of the method has weights. ``untrained``: they are ``random:SEED``, for trials of the cost."""

STEPS_OPTION = "--max-num-iterations"


@dataclass(frozen=True)
class Method:
    """One method to compare."""

    label: str
    """Name in the report."""
    name: str
    """Name under which nerfstudio knows the method."""
    options: tuple[str, ...] = ()
    """Options, as ``ns-train NAME`` takes them."""

    @property
    def steps(self) -> int | None:
        """Training steps that its options name (``--max-num-iterations``), which go before those of the sweep.

        Raises:
            BenchError: If they are no number.
        """
        found = re.findall(rf"(?:^|\s){STEPS_OPTION}[=\s](\S+)", shlex.join(self.options))
        if not found:
            return None
        if not found[-1].isdecimal() or int(found[-1]) < 1:
            raise BenchError(f"--methods {self.label}: {STEPS_OPTION} is {found[-1]}; a number of steps is needed.")
        return int(found[-1])


def find_method(text: str) -> Method:
    """Parse one entry of ``--methods``: ``[LABEL=]NAME [OPTIONS]``.

    Raises:
        BenchError: If it names no method.
    """
    label, rest = re.fullmatch(r"(?:([\w.+-]+)=)?(.*)", text, re.DOTALL).groups()
    words = shlex.split(rest)
    if words and words[0] in BASELINES:
        label, words = label or shlex.join(words), [*shlex.split(BASELINES[words[0]]), *words[1:]]
    if not words or words[0].startswith("-"):
        raise BenchError(
            f"--methods {text!r} names no method; give a name that ns-train knows, with options in the same quotes: "
            "'mine=learn2splat --optimizers.gaussians.optimizer.weights FILE'."
        )
    return Method(label or shlex.join(words), words[0], tuple(words[1:]))


def with_horizon(label: str, horizon: int) -> str:
    """Add a horizon to a label."""
    return f"{label}@{horizon}"


def split_horizon(label: str) -> tuple[str, int]:
    """Split a label into itself without the horizon, and the horizon; 0 if it has none."""
    found = _HORIZON.search(label)
    return (label[: found.start()], int(found[1])) if found else (label, 0)
