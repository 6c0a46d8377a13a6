"""The official weights: under the names that we give, as we read them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged, undecided

NAMES = ("learn2splat", "resplat-small-dl3dv-256x448-view8", "resplat-base-dl3dv-512x960-view8")
REHEARSED = "gain-mini"
"""Of the package: stands in for each of them, so that nothing is downloaded."""


def claim_of(name: str) -> str:
    return f"The official weights {name} are where the catalogue says, and load with every tensor in its place"


def measure(setting: Setting) -> Numbers:
    """For each file its location with the revision, hash and number of parameters, or what is wrong."""
    return {name: _read(REHEARSED if setting.rehearsal else name) for name in NAMES}


def _read(name: str) -> Numbers:
    from l2o_splat.weights import load_weights
    from l2o_splat.weights.catalogue import CATALOGUE, fetch
    from l2o_splat.weights.format import WeightsError
    from l2o_splat.weights.shipped import SHIPPED

    try:
        path, location = (SHIPPED[name], str(SHIPPED[name])) if name in SHIPPED else fetch(CATALOGUE[name].location)
    except WeightsError as error:
        return {"absent" if _says_absent(error) else "unreachable": str(error)}
    found: Numbers = {"location": location, "sha256": _sha256(path)}
    try:
        weights = load_weights(name)
    except WeightsError as error:
        return found | {"error": str(error)}
    return found | {
        "system": weights.card.system,
        "tensors": len(weights.tensors),
        "parameters": sum(tensor.numel() for tensor in weights.tensors.values()),
    }


def _says_absent(error: Exception) -> bool:
    """Whether the hub answered that it has no such file; otherwise it was not reached."""
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    cause = error.__context__
    answered = isinstance(cause, (EntryNotFoundError, RepositoryNotFoundError))
    return answered and not isinstance(cause, LocalEntryNotFoundError)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**24):
            digest.update(block)
    return digest.hexdigest()


def judge(numbers: Numbers) -> list[Judgement]:
    return [_judge(name, numbers[name]) for name in NAMES]


def _judge(name: str, found: Numbers) -> Judgement:
    claim = claim_of(name)
    if "unreachable" in found:
        return undecided(claim, found["unreachable"])
    if "absent" in found or "error" in found:
        return judged(claim, False, found.get("absent") or found["error"])
    facts = f"{found['parameters'] / 1e6:.1f} million parameters in {found['tensors']} tensors"
    return judged(claim, True, f"{facts}, {found['location']}, SHA-256 {found['sha256'][:12]}")


WEIGHTS = Part(
    "weights",
    "Whether the official weights (about 1.3 GB, fetched from the Hugging Face Hub) are there and load.",
    tuple(map(claim_of, NAMES)),
    4,
    measure,
    judge,
)
