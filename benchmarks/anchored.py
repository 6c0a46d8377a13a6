"""What holding Gaussians near their start is worth with few views: ``python benchmarks/anchored.py --help``.

From the same start, plain Adam and Adam with an anchor refine a scene on a few context views, with the same rates and
the mean squared difference as image loss; views in between are held out. Measured is their PSNR after some numbers of
steps, and once more with one context image brightened. Precisions: the heuristic one; with weights of diff3r that of
their head; and each of them handed to other Gaussians at random, which tells what its pattern is worth beside its
size. Prints Markdown tables, the mean and each capture, and writes every number to a JSON file. Captures are folders,
or procedural ones that nothing was trained or chosen on.

The start is one Gaussian per sparse point, or the dense start; with weights it is what their initial model makes of the
context views, the brightened image among them, and the context is refined on at the size that the model saw.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from l2o_splat import __version__
from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.heuristic import heuristic_precision
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.uncertainty_head import UncertaintyHead
from l2o_splat.initializer_training.data import SceneOptions
from l2o_splat.initializer_training.faulty_photographs import with_exposure
from l2o_splat.initializer_training.scenes import DepthSource
from l2o_splat.initializers.context_views import depth_range
from l2o_splat.initializers.dense import dense_gaussians
from l2o_splat.initializers.diff3r import predicted_precision, read_diff3r
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.losses import squared_loss
from l2o_splat.optim.adam import OWN_SCALE, SPLATFACTO, AdamRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.proximal import ProximalRule, proximal_weight
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.plugin.training_captures import read_training_capture
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.scenes.capture import Capture
from l2o_splat.scenes.split import split_views
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.training.sources import TEST_SEEDS
from l2o_splat.views import Views
from l2o_splat.weights import load_weights


@dataclass
class Options:
    """What to compare on what."""

    captures: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of captures with sparse points."""
    procedural: int = 0
    """Beside them, so many procedural captures of 96 x 64 pixels."""
    dataparser: tuple[str, ...] = ("nerfstudio-data",)
    """Reads them: its name and options, as for ns-train."""
    scale: float = 0.25
    """Images are reduced by this factor."""
    num_views: int = 6
    """Context views, spread over the capture; between each and the next one a view is held out."""
    steps: tuple[int, ...] = (0, 10, 50, 100, 500, 1000)
    """Numbers of steps after which quality is measured, ascending."""
    weights: str | None = None
    """Weights of diff3r, named as for `l2o weights show`; None starts from the points."""
    dense: bool = False
    """Start on the surfaces that the context views agree on instead."""
    rates: Literal["splatfacto", "own-scale"] = "splatfacto"
    """Rates of Adam: splatfacto's, or those of l2o-adam-tuned; neither decays."""
    prox_scales: tuple[float, ...] = (1.0,)
    """Factors on every precision; each makes a method of its own."""
    brightness: float = 1.2
    """What the first context image is multiplied by in the second condition."""
    permuted: bool = True
    """Measure precisions that are handed to other Gaussians too."""
    seed: int = 0
    """Seed of the order in which that is done."""
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    """cpu or cuda."""
    out: Path = Path("anchored.json")
    """File for the numbers."""


def all_captures(options: Options) -> Iterator[tuple[str, Capture]]:
    """Names and captures, read or made one after the other."""
    for path in options.captures:
        yield path.name, read_training_capture(path, options.dataparser, options.scale)
    source = DepthSource(0, SceneOptions(sizes=((64, 96),), portrait_share=0.0), TEST_SEEDS)
    for number in range(options.procedural):
        yield f"procedural {number}", source.capture(number)


@dataclass(frozen=True)
class Start:
    """Where all methods begin, and on which photographs."""

    gaussians: Gaussians
    context: Views
    raster: RasterSettings
    precisions: dict[str, Float[Tensor, "n 5"]]
    """Name and precision."""


class Starts:
    """Makes starts of captures, from points or by networks."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.head: UncertaintyHead | None = None
        if options.weights is not None:
            weights, head = read_diff3r(load_weights(options.weights, "diff3r"))
            self.head = head.to(options.device)
            self.initializer = ReSplatInitializer.from_weights(weights).to(options.device)
            self.raster = weights.card.raster_settings or RasterSettings()

    @torch.no_grad()
    def __call__(self, capture: Capture, context: Views) -> Start:
        precisions = {}
        if self.head is None:
            points, raster = capture.points, RasterSettings()
            if self.options.dense:
                gaussians = dense_gaussians([context], points.xyz, points.rgb)
            else:
                gaussians = gaussians_from_points(points.xyz, points.rgb, PointInitOptions())
            gaussians = gaussians.to(self.options.device)
        else:
            depths = depth_range(capture.points.xyz.to(self.options.device), context.cameras)
            shown = capture.points.xyz, capture.points.rgb
            scene, raster = self.initializer(context, depth_range=depths, points=shown), self.raster
            gaussians, context = scene.gaussians, scene.context
            precisions["head"] = predicted_precision(self.head, scene, raster)
        precisions["heuristic"] = heuristic_precision(gaussians, ContextViews(context, raster))
        order = torch.randperm(len(gaussians), generator=torch.Generator().manual_seed(self.options.seed))
        for name in list(precisions) if self.options.permuted else []:
            precisions[f"{name}, permuted"] = precisions[name][order.to(self.options.device)]
        return Start(gaussians, context, raster, precisions)


def methods(start: Start, options: Options) -> Iterator[tuple[str, UpdateRule, Tensor | None]]:
    """Name, rule and precision of everything that is compared."""
    shown = start.context.cameras
    adam = SPLATFACTO if options.rates == "splatfacto" else OWN_SCALE
    yield "Adam", AdamRule(adam), None
    for name, precision in start.precisions.items():
        for scale in options.prox_scales:
            weight = proximal_weight(len(shown), len(shown), shown.width, shown.height, scale)
            label = name if scale == 1 else f"{name} x {scale:g}"
            yield label, ProximalRule(AdamRule(adam), weight=weight), precision


def refine(
    start: Start,
    rule: UpdateRule,
    precision: Tensor | None,
    scene: SceneKnowledge,
    target: Views,
    steps: tuple[int, ...],
) -> list[float]:
    """Mean PSNR (dB) of the target views after each number of steps."""
    parameters = {name: Parameter(value.clone()) for name, value in start.gaussians.items()}
    optimizer = JointOptimizer(parameters, rule)
    optimizer.bind(scene, SceneStart(optimizer.gaussians, precision=precision))
    values = []
    for wanted in steps:
        while optimizer.inner_step < wanted:
            optimizer.zero_grad()
            drawn = render(Gaussians.from_mapping(parameters), start.context.cameras, start.raster).rgb
            squared_loss(drawn, start.context.images, start.context.masks).backward()
            optimizer.step()
        values.append(mean_psnr(optimizer.gaussians, target, start.raster))
    return values


def compare(options: Options) -> dict[str, dict[str, dict[str, list[float]]]]:
    """PSNR after each number of steps by condition, method and capture."""
    starts, results = Starts(options), {}
    for name, capture in all_captures(options):
        centres = capture.views.cameras.centres
        chosen, held_out = split_views(centres.numpy(), options.num_views)
        context, target = (capture.views[part].to(options.device) for part in (chosen, held_out))
        scene = SceneKnowledge(centres[chosen])
        conditions = {
            "as photographed": context,
            f"one image x {options.brightness:g}": with_exposure(context, 0, options.brightness),
        }
        for condition, views in conditions.items():
            start = starts(capture, views)
            for method, rule, precision in methods(start, options):
                values = refine(start, rule, precision, scene, target, options.steps)
                results.setdefault(condition, {}).setdefault(method, {})[name] = values
                print(f"{name}, {condition}, {method}: {values}", file=sys.stderr, flush=True)
    return results


def tables(results: dict, options: Options) -> Iterator[str]:
    """Lines of Markdown: per condition the mean of all captures, then each."""
    header = ["method", *(f"T = {steps}" for steps in options.steps)]
    for condition, by_method in results.items():
        for title in ("mean", *next(iter(by_method.values()))):
            yield from (f"\n{title}, {condition}\n", row(header), row(["---", *["---:"] * len(options.steps)]))
            for method, by_capture in by_method.items():
                curves = by_capture.values() if title == "mean" else [by_capture[title]]
                yield row([method, *(f"{mean(values):.2f}" for values in zip(*curves, strict=True))])


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(options: Options) -> None:
    """Compare, print and write."""
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} cores"
    facts = {
        "command": f"python {shlex.join(sys.argv)}",
        "versions": f"l2o_splat {__version__}, torch {torch.__version__}",
        "machine": f"{machine}, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    results = compare(options)
    print(f"`{facts['command']}`, {facts['versions']}, {facts['machine']}, {facts['date']}")
    print(f"\nHeld-out PSNR (dB) after T steps on {options.num_views} context views.")
    for line in tables(results, options):
        print(line)
    content = {**facts, "options": asdict(options), "psnr": results}
    partial = options.out.with_name(f".{options.out.name}.partial")
    partial.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(partial, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
