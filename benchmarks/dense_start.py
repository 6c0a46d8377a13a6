"""What a dense start is worth: ``python benchmarks/dense_start.py CAPTURE ... --help``.

From the sparse points of a capture, from the surfaces that its views agree on as rules of thumb size them, and from the
dense start that a network has sized, tuned Adam trains a scene for so many processor seconds of one thread, the start
among them. Every 8th view, the first included, is held out, or those between so many training views. Rates decay with
the share of the seconds spent. Prints, for each capture and start, Gaussians, seconds of the start, held-out PSNR
before the first step and after so many seconds, and the share of needles at the end (Gaussians whose longest axis is
over ten times their second one).
"""

from __future__ import annotations

import os

os.environ.setdefault("L2O_NUM_THREADS", "1")

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch.nn import Parameter

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.dense import DenseOptions, dense_gaussians, find_surfaces
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
from l2o_splat.optim.adam import AdamOptions, AdamRule, Rates, adam_options
from l2o_splat.optim.rule import Feedback
from l2o_splat.plugin.protocol_split import VIEWS_OF_A_POINT
from l2o_splat.rendering import RasterSettings, render, set_num_threads
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.scene import SceneStart
from l2o_splat.scenes.capture import Capture, Points, read_capture
from l2o_splat.scenes.split import split_views
from l2o_splat.sharing.selection import seen_in
from l2o_splat.view_sampling import ViewSampler
from l2o_splat.views import PinholeCameras, Views

CONSTANT = Rates(1, 1, 1, 1, 1, 1)
FINAL = 0.3
"""Rates at the end of a run, as a share of those at its start."""
NEEDLE = 10.0


@dataclass
class Options:
    """What to measure."""

    captures: tyro.conf.Positional[tuple[Path, ...]]
    """Folders with ``transforms.json`` and sparse points."""
    scale: float = 0.5
    """Images are reduced by this factor."""
    seconds: tuple[float, ...] = (5.0, 10.0, 20.0)
    """Processor seconds, the start included, after which quality is measured; the last is the budget."""
    starts: tuple[str, ...] = ("points", "surfaces", "dense")
    views: int | None = None
    """Training views, as far apart as possible, and the points that two of them can see; None for all."""
    most: int | None = None
    """Gaussians of the dense start at most; None lets it choose."""
    views_per_step: int = 8
    rate: float = 1.0
    """Factor of all rates."""


def reduced(views: Views, scale: float) -> Views:
    """The views with images reduced by area averaging."""
    if scale == 1:
        return views
    cameras = views.cameras
    width, height = round(cameras.width * scale), round(cameras.height * scale)
    images = F.interpolate(views.images.permute(0, 3, 1, 2), size=(height, width), mode="area")
    factors = torch.tensor([width / cameras.width, height / cameras.height, 1.0])
    small = PinholeCameras(cameras.viewmats, cameras.Ks * factors[:, None], width, height)
    return Views(small, images.permute(0, 2, 3, 1).contiguous())


def quality(gaussians: Gaussians, views: Views) -> float:
    """Mean PSNR (dB) of some views."""
    total = 0.0
    for v in range(len(views)):
        image = render(gaussians, views.cameras[[v]], RasterSettings()).rgb[0].clamp(0, 1)
        total -= 10 * float((image - views.images[v]).square().mean().log10())
    return total / len(views)


def start(name: str, views: Views, capture: Capture, options: Options) -> Gaussians:
    """One of the starts of ``Options.starts``."""
    if name == "points":
        return gaussians_from_points(capture.points.xyz, capture.points.rgb, PointInitOptions())
    make = dense_gaussians if name == "dense" else rules_of_thumb
    return make([views], capture.points.xyz, capture.points.rgb, DenseOptions(options.most))


def rules_of_thumb(*given: object) -> Gaussians:
    """The surfaces before the network has sized them."""
    return find_surfaces(*given).gaussians


def measure(name: str, training: Views, held_out: Views, capture: Capture, options: Options) -> str:
    """One row of the table."""
    start(name, training[[0, 1, 2]], capture, options)  # Compiles its kernels.
    begin = time.process_time()
    gaussians = start(name, training, capture, options)
    spent = time.process_time() - begin
    cells = [str(len(gaussians)), f"{spent:.2f}", f"{quality(gaussians, held_out):.2f}"]
    base = adam_options("own-scale", 1).rates
    rule = AdamRule(AdamOptions(base, "own_scale", CONSTANT, horizon=1))
    state = rule.init_state(SceneStart(gaussians))
    parameters = {field: Parameter(tensor.clone()) for field, tensor in gaussians.items()}
    sampler = ViewSampler(training.cameras.centres.numpy(), options.views_per_step, "fps", 0)
    budget, step = options.seconds[-1], 0
    for mark in options.seconds:
        while spent < mark:
            begin = time.process_time()
            factor = options.rate * FINAL ** (spent / budget)
            rates = Rates(**{field: factor * rate for field, rate in asdict(base).items()})
            rule.options = AdamOptions(rates, "own_scale", CONSTANT, horizon=1)
            present = Gaussians(**parameters)
            rendered_loss(present, training[sampler.views(step)], RasterSettings()).loss.backward()
            with torch.no_grad():
                gradients = Gaussians(**{field: tensor.grad for field, tensor in parameters.items()})
                delta, state = rule(present.detach(), Feedback(gradients, step, 1.0), state)
                for field, change in delta.items():
                    parameters[field].add_(change)
                    parameters[field].grad = None
            step += 1
            spent += time.process_time() - begin
        cells.append(f"{quality(Gaussians(**parameters).detach(), held_out):.2f}")
    axes = parameters["scales"].detach().sort(dim=1).values.exp()
    needles = float((axes[:, 2] > NEEDLE * axes[:, 1]).float().mean())
    return " | ".join([*cells, str(step), f"{100 * needles:.1f} %"])


def main(options: Options) -> None:
    """Measure and print a table."""
    torch.set_num_threads(1)
    set_num_threads(1)
    marks = " | ".join(f"{mark:g} s" for mark in options.seconds)
    print(f"| capture | start | Gaussians | seconds | first image | {marks} | steps | needles |")
    print("| --- | --- |" + " ---: |" * (len(options.seconds) + 5))
    for folder in options.captures:
        capture = read_capture(folder)
        views = reduced(capture.views, options.scale)
        shown, hidden = split_views(views.cameras.centres.numpy(), options.views or "all")
        training, held_out = views[shown], views[hidden]
        if options.views:
            kept = seen_in(capture.points.xyz, [training.cameras]) >= VIEWS_OF_A_POINT
            points = Points(capture.points.xyz[kept], capture.points.rgb[kept])
            capture = replace(capture, points=points)
        for name in options.starts:
            row = measure(name, training, held_out, capture, options)
            print(f"| {folder.name} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
