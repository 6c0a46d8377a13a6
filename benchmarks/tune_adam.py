"""Rates of Adam's ``own-scale`` preset, searched on procedural captures: ``python benchmarks/tune_adam.py [--help]``.

One rate at a time is multiplied and divided by 2, then by the square root of 2, and kept where the mean held-out PSNR
after 20 and after 100 steps (the rates decaying over just as many) gets better. Prints a line per trial and the rates.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
import tyro

from l2o_splat.meta.evaluation import Evaluation
from l2o_splat.meta.options import InnerLoop
from l2o_splat.optim.adam import AdamOptions, AdamRule, Rates, adam_options
from l2o_splat.training.sources import ProceduralSource


@dataclass
class Options:
    """What to search on."""

    captures: int = 6
    """Procedural captures, of the seeds that meta-training uses."""
    horizons: tuple[int, ...] = (20, 100)
    """Lengths of the runs whose final quality is averaged."""
    out: Path | None = None
    """File for the lines as well."""


def score(options: AdamOptions, captures: list, horizons: tuple[int, ...]) -> float:
    """Mean held-out PSNR, dB."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    values = [
        Evaluation(captures, (horizon,)).run(AdamRule(replace(options, horizon=horizon)), InnerLoop(), device).mean()
        for horizon in horizons
    ]
    return float(sum(values) / len(values))


def scaled(options: AdamOptions, name: str, factor: float) -> AdamOptions:
    """The options with one rate, or the final factor of all, multiplied."""
    if name == "final_factor":
        final = options.final_factor.means * factor
        return replace(options, final_factor=Rates(*[final] * len(fields(Rates))))
    return replace(options, rates=replace(options.rates, **{name: getattr(options.rates, name) * factor}))


def main(settings: Options) -> None:
    """Search and print."""
    source = ProceduralSource()
    captures = [source.capture(index) for index in range(settings.captures)]
    best = adam_options("own-scale", 1)
    best_score = score(best, captures, settings.horizons)

    def say(line: str) -> None:
        print(line, flush=True)
        if settings.out is not None:
            with settings.out.open("a") as file:
                file.write(line + "\n")

    say(f"start {best_score:.3f} dB {asdict(best.rates)} final {best.final_factor.means}")
    for factor in (2.0, math.sqrt(2)):
        for name in (*(field.name for field in fields(Rates)), "final_factor"):
            for step in (factor, 1 / factor):
                improved = False
                while (found := score(trial := scaled(best, name, step), captures, settings.horizons)) > best_score:
                    best, best_score, improved = trial, found, True
                    say(f"{name} x {step:.3g}: {best_score:.3f} dB, kept")
                say(f"{name} x {step:.3g}: {found:.3f} dB")
                if improved:
                    break
    say(f"best {best_score:.3f} dB {asdict(best.rates)} final {best.final_factor.means}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
