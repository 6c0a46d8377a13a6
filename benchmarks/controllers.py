"""Controllers on captures at equal counted time: ``python benchmarks/controllers.py NAME=WEIGHTS --data FOLDER``.

Every controller runs tuned Adam under the preset fast on the same captures, from the same start, on a clock that counts
what steps cost (:mod:`l2o_splat.evolution.budgeted_run`), so that the numbers are those of any machine, however busy.
The first row is the preset without a controller. Every 8th view is held out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from l2o_splat.environment import command
from l2o_splat.evolution.budgeted_run import BudgetedRun, ReducedPhotographs
from l2o_splat.files import write_text_whole
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.plugin.training_captures import read_training_capture
from l2o_splat.scenes.split import split_views
from l2o_splat.schedule.controller import Controller
from l2o_splat.weights import load_weights

NEUTRAL = "no controller"


@dataclass
class Options:
    """What to compare."""

    controllers: tyro.conf.Positional[tuple[str, ...]]
    """NAME=WEIGHTS of each controller."""
    data: tuple[Path, ...]
    """Folders of captures."""
    scale: float = 0.5
    """Factor of the photographs' sides."""
    budgets: tuple[float, ...] = (50.0, 100.0, 200.0, 600.0)
    """Lengths of runs, in steps at full size with all views."""
    read_at: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Shares of each budget after which held-out views are compared."""
    seeds: int = 1
    """Runs of each kind, with other orders of views."""
    out: Path = Path("outputs/controllers.json")
    """Results; runs that it has already are not run again."""


def key_of(options: Options, folder: Path, controller: Controller, budget: float, seed: int) -> str:
    """Name of a run in the results."""
    return f"{folder.name} {options.scale:g} {controller.digest} {budget:g} {seed} {options.read_at}"


def main(options: Options) -> None:
    """Make the runs that are missing, and print the table."""
    torch.set_num_threads(1)
    named = dict(entry.split("=", 1) for entry in options.controllers)
    controllers = {NEUTRAL: Controller.neutral()}
    controllers |= {name: Controller.from_weights(load_weights(path)) for name, path in named.items()}
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for folder in options.data:
        parser = ("nerfstudio-data", "--load-3D-points")
        capture = read_training_capture(folder, parser, options.scale)
        training, held_out = split_views(capture.views.cameras.centres.numpy(), "all")
        photographs = ReducedPhotographs.of(capture.views[training])
        start = gaussians_from_points(capture.points.xyz, capture.points.rgb)
        for name, controller in controllers.items():
            for budget in options.budgets:
                for seed in range(options.seeds):
                    key = key_of(options, folder, controller, budget, seed)
                    if key not in results:
                        run = BudgetedRun(start, photographs, capture.views[held_out], budget, 8, controller, seed)
                        results[key] = [round(psnr, 3) for psnr in run.psnr_at(options.read_at)]
                        write_text_whole(options.out, json.dumps(results, indent=1))
                        print(name, key, results[key], flush=True)
    print(f"\n`{command()}`\n\n{table(options, controllers, results)}")


def table(options: Options, controllers: dict[str, Controller], results: dict[str, list[float]]) -> str:
    """Mean over captures and seeds; for controllers the lead over none, and the smallest lead on a capture."""

    def psnr(controller: Controller, budget: float) -> np.ndarray:
        return np.array(
            [
                [results[key_of(options, folder, controller, budget, seed)] for seed in range(options.seeds)]
                for folder in options.data
            ]
        ).mean(axis=1)

    titles = ["controller", *(f"{share:g} of {budget:g}" for budget in options.budgets for share in options.read_at)]
    rows, usual = [], [psnr(controllers[NEUTRAL], budget) for budget in options.budgets]
    for name, controller in controllers.items():
        cells = []
        for budget, before in zip(options.budgets, usual, strict=True):
            found = psnr(controller, budget)
            lead = found - before
            cells += [
                f"{mean:.2f}" if name == NEUTRAL else f"{mean:.2f} ({difference:+.2f}, {worst:+.2f})"
                for mean, difference, worst in zip(found.mean(axis=0), lead.mean(axis=0), lead.min(axis=0), strict=True)
            ]
        rows.append([name, *cells])
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main(tyro.cli(Options))
