"""Saving and resuming meta-training: every process writes its part, and the whole appears at once."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.meta.buffer import CheckpointBuffer
from l2o_splat.meta.episode import Episode, EpisodeOptions, start_episode
from l2o_splat.meta.sources import Source
from l2o_splat.optim.rule import UpdateRule

_PREFIX = "iteration-"


class ResumeError(ValueError):
    """A saved training state does not fit the run; the message says why and what to do."""


def latest_state(folder: Path) -> Path | None:
    """The newest complete training state of a run's folder."""
    return max(folder.glob(f"{_PREFIX}*"), default=None) if folder.exists() else None


def save_state(fabric: Any, folder: Path, iteration: int, shared: dict[str, Any], own: dict[str, Any]) -> None:
    """Write the state after ``iteration`` meta-iterations, then remove older ones.

    Args:
        fabric: Lightning Fabric.
        folder: Of the run's states.
        iteration: Number of meta-iterations done.
        shared: The same in every process.
        own: Of this process.
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


def load_state(fabric: Any, state: Path, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shared and own parts of a saved state.

    Raises:
        ResumeError: If it was saved with other options or another number of processes.
    """
    shared = torch.load(state / "shared.pt", map_location="cpu", weights_only=True)
    changed = sorted(name for name in options if shared["options"].get(name) != options[name])
    if changed:
        found = {name: shared["options"].get(name) for name in changed}
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


def buffer_state(buffer: CheckpointBuffer) -> dict[str, Any]:
    """What a buffer must be rebuilt from: where each episode stands, not its photographs."""
    episodes = [
        {
            "index": episode.index,
            "step": episode.step,
            "gaussians": {name: value.cpu() for name, value in episode.gaussians.items()},
            "state": {name: rows.cpu() for name, rows in episode.state.items()},
        }
        for episode in buffer.episodes
    ]
    return {"filled": buffer.filled, "episodes": episodes}


def restore_buffer(
    buffer: CheckpointBuffer,
    saved: dict[str, Any],
    rule: UpdateRule,
    source: Source,
    options: EpisodeOptions,
    seed: int,
    device: torch.device,
) -> None:
    """Fill a buffer as it was; the source gives the photographs again."""
    buffer.filled = saved["filled"]
    buffer.episodes = []
    for entry in saved["episodes"]:
        start = start_episode(rule, source.capture(entry["index"]), entry["index"], options, seed, device)
        gaussians = Gaussians(**{name: entry["gaussians"][name].to(device) for name in FIELDS})
        state = {name: rows.to(device) for name, rows in entry["state"].items()}
        episode: Episode = replace(start, gaussians=gaussians, state=state, step=entry["step"])
        buffer.episodes.append(episode)
