"""Saved states of a training: every process writes its part, and the whole appears at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from l2o_splat.errors import L2OError

_PREFIX = "iteration-"


class ResumeError(L2OError, ValueError):
    """A saved state does not fit the run; the message says why and what to do."""


def latest_state(folder: Path) -> Path | None:
    """The newest complete state in a folder of states; None if there is none."""
    return max(folder.glob(f"{_PREFIX}*"), default=None) if folder.exists() else None


def save_state(fabric: Any, folder: Path, iteration: int, shared: dict[str, Any], own: dict[str, Any]) -> None:
    """Write the state after ``iteration`` iterations, then remove older ones.

    Args:
        fabric: Lightning Fabric.
        folder: Folder of the run's states.
        iteration: Number of iterations done.
        shared: State that is the same in every process: tensors, numbers, strings and containers of these.
        own: State of this process, of the same types.
    """
    final = folder / f"{_PREFIX}{iteration:08d}"
    if final.exists():
        return
    partial = folder / f".{final.name}.partial"
    if fabric.global_rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    fabric.barrier()
    torch.save(own, partial / f"process-{fabric.global_rank}.pt")
    if fabric.global_rank == 0:
        torch.save(shared, partial / "shared.pt")
    fabric.barrier()
    if fabric.global_rank == 0:
        os.replace(partial, final)
        for older in folder.glob(f"{_PREFIX}*"):
            if older != final:
                shutil.rmtree(older)
    fabric.barrier()


def load_state(
    fabric: Any,
    state: Path,
    options: dict[str, Any],
    migrate: Callable[[dict[str, Any]], dict[str, Any]] = lambda saved: saved,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shared and own parts of a saved state.

    Args:
        fabric: Lightning Fabric.
        state: Folder of the state, see :func:`latest_state`.
        options: Everything that the weights depend on, as JSON has it.
        migrate: Brings saved options of earlier versions to their present names.

    Raises:
        ResumeError: If it was saved with other options or another number of processes.
    """
    shared = torch.load(state / "shared.pt", map_location="cpu", weights_only=True)
    saved = migrate(json.loads(json.dumps(shared.get("options", {}))))
    changed = sorted(name for name in options if saved.get(name) != options[name])
    if changed:
        found = {name: saved.get(name) for name in changed}
        raise ResumeError(
            f"{state} was trained with other options ({found}, now { {name: options[name] for name in changed} }); "
            "go on with the same ones, or train into another folder."
        )
    parts = sorted(state.glob("process-*.pt"))
    if len(parts) != fabric.world_size:
        raise ResumeError(
            f"{state} was saved by {len(parts)} processes, now there are {fabric.world_size}; use as many."
        )
    own = torch.load(state / f"process-{fabric.global_rank}.pt", map_location="cpu", weights_only=True)
    return shared, own


def with_defaults(saved: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Options of a saved state, with the defaults of those that did not exist yet; the defaults change nothing."""
    completed = dict(saved)
    for name, default in defaults.items():
        if name not in saved:
            completed[name] = default
        elif isinstance(default, dict) and isinstance(saved[name], dict):
            completed[name] = with_defaults(saved[name], default)
    return completed
