"""What is known of a part after it ran, as a file that a later run goes on from."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from l2o_splat.environment import commit, machine
from l2o_splat.files import write_text_whole
from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, undecided

PACKAGE = Path(__file__).resolve().parents[1]
VERSIONS = ("torch", "gsplat", "nerfstudio")
PARTS_NAME = "parts"

Status = Literal["measured", "undecided", "failed", "out of time"]


@dataclass(frozen=True)
class Record:
    """One part that ran."""

    part: str
    key: dict[str, str]
    """What its numbers depend on, see :func:`key_of`."""
    status: Status
    reason: str
    """Why there are no numbers; empty if it is ``measured``."""
    seconds: float
    date: str
    judgements: tuple[Judgement, ...]
    """One for each claim."""
    numbers: Numbers = field(default_factory=dict)
    log: str = ""
    """The last lines that the part printed."""

    @property
    def decided(self) -> bool:
        """Whether every claim is proven or refuted."""
        return all(judgement.verdict != "not decided" for judgement in self.judgements)

    def write(self, folder: Path) -> None:
        write_text_whole(folder / f"{self.part}.json", json.dumps(asdict(self), indent=1) + "\n")


def read_record(folder: Path, part: Part, key: dict[str, str]) -> Record | None:
    """The record of a part with this key; None if there is none, or one of other sources, versions or options."""
    try:
        values: dict[str, Any] = json.loads((folder / f"{part.name}.json").read_text())
        judgements = tuple(Judgement(**one) for one in values.pop("judgements"))
        record = Record(**values, judgements=judgements)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    complete = tuple(one.claim for one in judgements) == part.claims
    return record if record.key == key and complete else None


def judgements_of(part: Part, numbers: Numbers) -> tuple[Judgement, ...]:
    """The verdict on every claim of a part, in their order; undecided where numbers are missing."""
    try:
        found = {judgement.claim: judgement for judgement in part.judge(numbers)}
    except (KeyError, IndexError, TypeError) as error:
        return nothing_decided(part, f"The numbers are incomplete ({type(error).__name__}: {error}).")
    return tuple(found.get(claim) or undecided(claim, "The part says nothing of it.") for claim in part.claims)


def rehearsed(judgements: tuple[Judgement, ...]) -> tuple[Judgement, ...]:
    """The same claims, undecided, with what their numbers would say if they were those of a card."""
    return tuple(
        undecided(one.claim, f"rehearsed; such numbers would say {one.verdict}: {one.found}") for one in judgements
    )


def nothing_decided(part: Part, reason: str) -> tuple[Judgement, ...]:
    """Every claim of a part, undecided for one reason."""
    return tuple(undecided(claim, reason) for claim in part.claims)


def key_of(part: Part, setting: Setting) -> dict[str, str]:
    """What the numbers of a part depend on: sources, versions, machine, and the options that it asks for."""
    return _key_of_machine() | {name: str(getattr(setting, name)) for name in ("device", *part.asks)}


def state_of_machine() -> str:
    """A short name of sources, versions and machine."""
    return hashlib.sha256(json.dumps(_key_of_machine()).encode()).hexdigest()[:10]


@functools.cache
def _key_of_machine() -> dict[str, str]:
    sources = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        sources.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    versions = {name: _version(name) for name in VERSIONS}
    return {"commit": commit(), "sources": sources.hexdigest()[:12], **versions, "machine": machine()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
