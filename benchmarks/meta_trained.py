"""Weights of `l2o meta-train` beside Adam on procedural captures: ``python benchmarks/meta_trained.py NAME=RUN ...``.

NAME=RUN names the best weights of a run's folder. Every rule optimizes the same captures, none of which was trained on,
from the same start, with 8 views in a step. The table has the mean held-out PSNR after so many inner steps, the best of
them, and how much of it is lost at the end. Training scenes of the runs were drawn from ``--ranges``; give the same.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from l2o_splat.environment import command
from l2o_splat.files import write_text_whole
from l2o_splat.meta.evaluation import Evaluation, captures_for
from l2o_splat.meta.options import InnerLoop
from l2o_splat.meta.starts import ReSplatStart, start_from_points
from l2o_splat.optim.registry import RuleOptions, rule_entry
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.training.options import CaptureRanges
from l2o_splat.training.sources import TEST_SEEDS, VALIDATION_SEEDS, ProceduralSource
from l2o_splat.weights import load_weights


@dataclass
class Options:
    """What to compare."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """NAME=FOLDER of runs, or NAME=WEIGHTS."""
    out: Path = Path("outputs/meta_trained.json")
    """Results; rules that it has already are not run again."""
    rules: tuple[str, ...] = ("adam", "adam-x5", "adam-own-scale")
    """Hand-made rules beside them."""
    steps: tuple[int, ...] = (0, 10, 20, 50, 100, 200, 500, 1000)
    """Inner steps after which quality is measured."""
    captures: int = 8
    """Number of captures."""
    seeds: Literal["validation", "test"] = "test"
    """Seeds that the captures are drawn from: those on which weights are chosen, or others."""
    start: Literal["points", "resplat"] = "points"
    """What scenes start from; resplat takes resplat-mini and 8 context views."""
    ranges: CaptureRanges = field(default_factory=lambda: CaptureRanges(num_points=(300, 2500)))
    """Sizes of the captures."""


def measure(rule: UpdateRule, evaluation: Evaluation, raster: RasterSettings) -> list[float]:
    """Mean held-out PSNR (dB) after each number of steps."""
    values = evaluation.run(rule, InnerLoop(raster), torch.device("cpu"))
    return [round(float(value), 3) for value in values.mean(dim=0)]


def table(results: dict[str, list[float]], steps: tuple[int, ...]) -> str:
    """Markdown."""
    head = ["rule", *map(str, steps), "best", "end below best"]
    lines = [head, ["---"] * len(head)]
    for name, values in results.items():
        numbers = [f"{value:.2f}" for value in (*values, max(values), max(values) - values[-1])]
        lines.append([name, *numbers])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(options: Options) -> None:
    """Measure, save, print."""
    start = start_from_points
    if options.start == "resplat":
        start = ReSplatStart.from_weights("resplat-mini", torch.device("cpu"))
    seeds = VALIDATION_SEEDS if options.seeds == "validation" else TEST_SEEDS
    views = 8 if options.start == "resplat" else None
    evaluation = Evaluation((), options.steps, context_views=views, start=start)
    source = ProceduralSource(ranges=options.ranges, seeds=seeds)
    captures = captures_for(source, options.captures, evaluation, torch.device("cpu"))
    evaluation = replace(evaluation, captures=captures)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    named = {name: None for name in options.rules} | dict(entry.split("=", 1) for entry in options.runs)
    for name, reference in named.items():
        if name in results:
            continue
        raster = RasterSettings()
        if reference is None:
            rule = rule_entry(name).build(RuleOptions(horizon=options.steps[-1]))
        else:
            path = Path(reference)
            weights = load_weights(path / "best.safetensors" if path.is_dir() else reference, ("learn2splat", "gain"))
            rule = rule_entry("learn2splat").build(RuleOptions(weights))
            raster = replace(raster, **weights.card.raster)
        results[name] = measure(rule, evaluation, raster)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(options.out, json.dumps(results, indent=1) + "\n")
    print(f"`{command()}`\n\n{table(results, options.steps)}")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
