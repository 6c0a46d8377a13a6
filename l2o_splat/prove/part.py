"""A part of the proof: what it claims, what it measures, and how its numbers are judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["proven", "refuted", "not decided"]
Numbers = dict[str, Any]
"""What a part has measured: names with numbers, texts, lists and further such dictionaries, as JSON has them."""

TEN_MINUTES = 600.0


@dataclass(frozen=True)
class Setting:
    """What all parts are told."""

    out: Path
    """Folder of the report."""
    device: Literal["cuda", "cpu"] = "cuda"
    """On the CPU it is a rehearsal: every part measures something tiny, to show that the part itself works."""
    garden: Path | None = None
    """Folder of Mip-NeRF 360 garden."""
    data: Path | None = None
    """Folder of a capture that stands in for the built-in one."""
    against: Literal["splatfacto"] | None = None
    """Method of nerfstudio to be ahead of."""
    golden: Path | None = None
    """Folder of fixtures with numbers of the original programs."""
    state: str = "unknown"
    """Names sources, versions and machine: what a part has left unfinished in another state is begun anew."""

    @property
    def rehearsal(self) -> bool:
        return self.device == "cpu"

    def work(self, part: str) -> Path:
        """The folder in which a part keeps what it goes on from."""
        return self.out / "work" / self.state / part

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def read(cls, path: Path) -> Setting:
        values = json.loads(path.read_text())
        paths = {name: Path(values[name]) for name in ("out", "garden", "data", "golden") if values[name] is not None}
        return cls(**values | paths)


@dataclass(frozen=True)
class Judgement:
    """The verdict on one claim."""

    claim: str
    verdict: Verdict
    found: str
    """What was measured and what was needed, or why nothing was decided."""


def judged(claim: str, holds: bool, found: str) -> Judgement:
    """A claim that holds is proven, one that does not is refuted."""
    return Judgement(claim, "proven" if holds else "refuted", found)


def undecided(claim: str, reason: str) -> Judgement:
    """A claim about which nothing is known."""
    return Judgement(claim, "not decided", reason)


def nothing_missing(setting: Setting) -> str:
    """For a part that every machine with a card can run."""
    return ""


@dataclass(frozen=True)
class Part:
    """One part, which runs in a process of its own."""

    name: str
    decides: str
    """What a reader knows afterwards; one sentence."""
    claims: tuple[str, ...]
    """Sentences that are true or not."""
    minutes: float
    """What it takes on a usual machine with a card, about."""
    measure: Callable[[Setting], Numbers]
    """Measures. Raises :class:`UndecidedError` if this machine lacks something; another error leaves the claims
    undecided with its message."""
    judge: Callable[[Numbers], list[Judgement]]
    """Judges every claim by the numbers."""
    missing: Callable[[Setting], str] = nothing_missing
    """What must be given or be here for the part to run at all; empty if nothing is missing."""
    asks: tuple[str, ...] = ()
    """Fields of :class:`Setting`, besides the device, that its numbers depend on."""
    after: tuple[str, ...] = ()
    """Parts whose work it reads; when one of them has run, it runs again."""
    limit: float = TEN_MINUTES
    """Seconds after which it is stopped."""
