"""Entries of ``--methods``: a registered method, its options and its label in the report."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from l2o_splat.bench.errors import BenchError

_HORIZON = re.compile(r"@(\d+)$")

BASELINES = {"adam-adc": "l2o-adam --preset adc"}
"""Methods with options that have a name of their own here. ``adam-adc``: 3DGS's own growth around Adam with its own
rates, which is what people use elsewhere."""


@dataclass(frozen=True)
class Method:
    """One method to compare."""

    label: str
    """Name in the report."""
    name: str
    """Name under which nerfstudio knows the method."""
    options: tuple[str, ...] = ()
    """Options, as ``ns-train NAME`` takes them."""


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
