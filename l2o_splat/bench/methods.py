"""From what ``--methods`` names to a registered method, its options and a name in the report."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from l2o_splat.bench.errors import BenchError

_HORIZON = re.compile(r"@(\d+)$")


@dataclass(frozen=True)
class Method:
    """One method to compare."""

    label: str
    """Its name in the report."""
    name: str
    """Registered with nerfstudio."""
    options: tuple[str, ...] = ()
    """As ``ns-train NAME`` takes them."""


def find_method(text: str) -> Method:
    """The method that one entry of ``--methods`` means: ``[LABEL=]NAME [OPTIONS]``.

    Raises:
        BenchError: when it names none.
    """
    label, rest = re.fullmatch(r"(?:([\w.+-]+)=)?(.*)", text, re.DOTALL).groups()
    words = shlex.split(rest)
    if not words or words[0].startswith("-"):
        raise BenchError(
            f"--methods {text!r} names no method; give a name that ns-train knows, with options in the same quotes: "
            "'mine=learn2splat --optimizers.gaussians.optimizer.weights FILE'."
        )
    return Method(label or shlex.join(words), words[0], tuple(words[1:]))


def with_horizon(label: str, horizon: int) -> str:
    """Name in the report of one of several horizons."""
    return f"{label}@{horizon}"


def split_horizon(label: str) -> tuple[str, int]:
    """A name in the report without its horizon, and the horizon; 0 if it has none."""
    found = _HORIZON.search(label)
    return (label[: found.start()], int(found[1])) if found else (label, 0)
