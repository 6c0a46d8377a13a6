"""Speed and memory of ReSplat, part by part, as a markdown table: ``python benchmarks/resplat.py [--help]``.

    python benchmarks/resplat.py --weights random:resplat-base-dl3dv-512x960-view8
    OMP_WAIT_POLICY=PASSIVE python benchmarks/resplat.py --weights random:resplat-small-dl3dv-256x448-view8 \\
        --height 256 --width 448 --repeats 3

Times are medians of some repetitions after a warm-up, by CUDA events on a GPU and the host's clock elsewhere. Every
moment belongs to one part, so that the parts add up; what belongs to none is the rest. The update measured is the
first one, every time from the same start. Needs no capture and no nerfstudio: photographs are smooth noise, and
``random:NAME`` gives random weights the widths and options of a released file. Their Gaussians are made as large as
the cells they come from, as trained ones are about, so that renders take a usual time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from l2o_splat.bench.memory import PeakMemory
from l2o_splat.environment import environment
from l2o_splat.files import write_text_whole
from l2o_splat.initializers.resplat import InitialScene, ReSplatInitializer
from l2o_splat.nets.resplat import model as initial_model
from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape
from l2o_splat.nets.resplat.layouts import BASE, FINE_BASE, LARGE, SMALL
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from l2o_splat.optim import resplat
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import Feedback, RenderedViews
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneStart, scene_extent
from l2o_splat.views import PinholeCameras, Views
from l2o_splat.weights import Weights, WeightsCard, load_weights
from l2o_splat.weights.resplat_original import PREFIX
from l2o_splat.weights.resplat_zoo import RASTER, ZOO

REST = "rest"
INITIALIZATION = ("depth network", "neighbour search", "neighbour attention", "global attention", "head", REST)
UPDATE = ("render", "error", "neighbour search", "update network", REST)

SHAPES = {
    "resplat-small-dl3dv": SMALL,
    "resplat-base-dl3dv": BASE,
    "resplat-large-dl3dv": LARGE,
    "resplat-base-re10k": FINE_BASE,
}
"""Widths of the released files by how their names begin (ReSplat, arXiv 2510.08575)."""


DEPTHS = (0.5, 50.0)
"""Nearest and farthest depth of the plane sweep, scene units; which ones takes no time."""


class PartTimer:
    """Splits the time between start and stop; every moment belongs to the innermost part that is going on."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._parts = [REST]
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def start(self) -> None:
        """From here on time belongs to the rest."""
        self._synchronize()
        self._parts, self._marks = [REST], []
        self._mark()

    def timed(self, part: str, function: Callable) -> Callable:
        """``function``, whose time belongs to a part."""

        def call(*args, **kwargs):
            self._parts.append(part)
            self._mark()
            try:
                return function(*args, **kwargs)
            finally:
                self._parts.pop()
                self._mark()

        return call

    def stop(self) -> dict[str, float]:
        """Seconds of each part since the start."""
        self._mark()
        self._synchronize()
        seconds: dict[str, float] = defaultdict(float)
        for (part, begin), (_, end) in pairwise(self._marks):
            seconds[part] += begin.elapsed_time(end) / 1000 if self._on_gpu else end - begin
        return seconds

    def _mark(self) -> None:
        now: float | torch.cuda.Event = time.perf_counter()
        if self._on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self._marks.append((self._parts[-1], now))

    def _synchronize(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()


def timed_parts(timer: PartTimer, *places: tuple[str, Any, str]) -> AbstractContextManager:
    """While it lasts, time of these functions belongs to parts.

    Args:
        timer: Keeps the time.
        places: Part, object, and the name of the function in it.
    """
    stack = ExitStack()
    for part, owner, name in places:
        stack.enter_context(mock.patch.object(owner, name, timer.timed(part, getattr(owner, name))))
    return stack


def parts_of_initialization(timer: PartTimer, model: InitialModel) -> AbstractContextManager:
    """Time of the initial model belongs to the parts of ``INITIALIZATION``."""
    return timed_parts(
        timer,
        ("depth network", model.depth_predictor, "forward"),
        ("neighbour search", model, "find_neighbours"),
        *(("neighbour attention", block, "forward") for block in model.pt.blocks),
        *(("global attention", block, "forward") for block in model.pt.mv_blocks),
        ("head", model.gaussian_head, "forward"),
        ("head", initial_model, "decode_gaussians"),
    )


def parts_of_update(timer: PartTimer, network: ReSplatUpdateNetwork) -> AbstractContextManager:
    """Time of an update belongs to the parts of ``UPDATE``, but for the render."""
    return timed_parts(
        timer,
        ("error", network, "image_error"),
        ("neighbour search", resplat, "nearest_neighbours"),
        ("neighbour search", resplat, "local_neighbours"),
        ("update network", network, "forward"),
    )


@dataclass(frozen=True)
class Measurement:
    """What one of the two stages takes."""

    seconds: dict[str, float]
    """Median of each part."""
    total: float
    """Median, seconds."""
    mib: float
    """Peak memory, weights and photographs included: of tensors on a GPU, of the resident process elsewhere."""


def measure(
    work: Callable[[], Any], timer: PartTimer, parts: Sequence[str], device: torch.device, repeats: int
) -> Measurement:
    """Time and memory of what ``work`` does, after one call of it that counts for nothing."""
    work()
    _forget_the_peak(device)
    memory, laps = PeakMemory(device), []
    for _ in range(repeats):
        timer.start()
        work()
        laps.append(timer.stop())
    seconds = {part: statistics.median(lap.get(part, 0.0) for lap in laps) for part in parts}
    return Measurement(seconds, statistics.median(sum(lap.values()) for lap in laps), memory.mib)


def _forget_the_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def measure_initialization(
    initializer: ReSplatInitializer, views: Views, device: torch.device, repeats: int
) -> tuple[Measurement, InitialScene]:
    """Time and memory of the initial model, and its scene."""
    timer = PartTimer(device)
    with parts_of_initialization(timer, initializer.model):
        found = measure(lambda: initializer(views, depth_range=DEPTHS), timer, INITIALIZATION, device, repeats)
    return found, initializer(views, depth_range=DEPTHS)


def measure_update(
    rule: ReSplatRule, scene: InitialScene, raster: RasterSettings, device: torch.device, repeats: int
) -> Measurement:
    """Time and memory of the first update of a scene, the render of its context views included."""
    timer = PartTimer(device)
    draw = timer.timed("render", lambda: render(scene.gaussians, scene.context.cameras, raster).rgb)
    extent = scene_extent(scene.context.cameras.centres)
    state = rule.init_state(SceneStart(scene.gaussians, scene.features.float()))

    @torch.no_grad()
    def update() -> None:
        feedback = Feedback(None, 0, extent, RenderedViews(scene.context, draw()))
        delta, _ = rule(scene.gaussians, feedback, state)
        scene.gaussians.zip_map(torch.add, delta)

    with parts_of_update(timer, rule.network):
        return measure(update, timer, UPDATE, device, repeats)


def photographs(num_views: int, height: int, width: int, seed: int = 0) -> Views:
    """Smooth noise, seen by cameras side by side that look the same way."""
    coarse = torch.rand(num_views, 3, 12, 20, generator=torch.Generator().manual_seed(seed))
    images = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1).contiguous()
    viewmats = torch.eye(4).repeat(num_views, 1, 1)
    viewmats[:, 0, 3] = -0.1 * torch.arange(num_views)
    K = torch.tensor([[_focal(width), 0, width / 2], [0, _focal(width), height / 2], [0, 0, 1]])
    return Views(PinholeCameras(viewmats, K.repeat(num_views, 1, 1), width, height), images)


def _focal(width: int) -> float:
    """Pixels."""
    return 0.9 * width


def released_layout(name: str) -> tuple[ReSplatShape, dict[str, Any]]:
    """Widths of a released file, and its fields of :class:`ReSplatConfig`.

    Raises:
        ValueError: If no whole model is released under the name.
    """
    for entry in ZOO:
        for beginning, shape in SHAPES.items():
            if entry.name == name and name.startswith(beginning):
                return shape, dict(entry.behaviour)
    known = [entry.name for entry in ZOO if entry.name.startswith(tuple(SHAPES))]
    raise ValueError(f"There is no released model {name!r}; give random: and one of {known}.")


def random_weights(shape: ReSplatShape, behaviour: dict[str, Any], width: int, seed: int = 0) -> Weights:
    """Random weights of some widths and options, for images of a width (pixels)."""
    config = ReSplatConfig(**behaviour)
    # Untrained depths are about the middle of the plane sweep, and scales are exp(-scale_bias) everywhere.
    cell = shape.gaussian_downsample * math.sqrt(math.prod(DEPTHS)) / _focal(width)
    config = replace(config, scale_bias=-math.log(cell / 2))
    torch.manual_seed(seed)
    modules: list[nn.Module] = [InitialModel(shape, config)]
    if shape.update is not None:
        modules.append(ReSplatUpdateNetwork(shape))
    tensors = {PREFIX + key: tensor for module in modules for key, tensor in module.state_dict().items()}
    architecture = {"tensors": len(tensors), "numbers": sum(tensor.numel() for tensor in tensors.values())}
    return Weights(tensors, WeightsCard("resplat", architecture, asdict(config), raster=dict(RASTER), source="random"))


def run(weights: Weights, arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements, as the JSON file has them."""
    device = torch.device(arguments.device)
    options = {
        "longer_side": max(arguments.width, arguments.height),
        "precision": arguments.precision,
        "local_search": arguments.local_knn,
        "update_local_search": arguments.local_knn,
    }
    initializer = ReSplatInitializer.from_weights(weights, **options).to(device)
    views = photographs(arguments.views, arguments.height, arguments.width).to(device)
    found, scene = measure_initialization(initializer, views, device, arguments.repeats)
    stages = {"initialization": found}
    if initializer.model.shape.update is not None:
        rule = ReSplatRule.from_weights(weights, **options).to(device)
        raster = weights.card.raster_settings or RasterSettings()
        stages["update"] = measure_update(rule, scene, raster, device, arguments.repeats)
    size = scene.context.cameras
    return {
        "environment": environment(),
        "weights": arguments.weights,
        "parameters": sum(tensor.numel() for tensor in weights.tensors.values()),
        "device": device.type,
        "precision": "bfloat16" if initializer.config.uses_bfloat16(device) else "float32",
        "neighbours": "local" if arguments.local_knn else "exact",
        "views": [len(scene.context), size.height, size.width],
        "gaussians": len(scene.gaussians),
        "repeats": arguments.repeats,
        **{
            name: {"seconds": stage.seconds, "total": stage.total, "peak_mib": stage.mib}
            for name, stage in stages.items()
        },
    }


def markdown(results: dict[str, Any]) -> str:
    """One row per part of each stage."""
    facts = results["environment"]
    views, height, width = results["views"]
    lines = [
        f"`{facts['command']}`, commit {facts['commit']}, {facts['date']}, {facts['machine']}, {facts['cores']} cores, "
        f"torch {facts['torch']}, gsplat {facts['gsplat']}",
        "",
        f"{results['weights']} ({results['parameters'] / 1e6:.1f} million numbers), {views} views of {height} x "
        f"{width}, {results['gaussians']:,} Gaussians, {results['precision']}, {results['neighbours']} neighbours, "
        f"median of {results['repeats']}.",
        "",
        "| stage | part | seconds | share | peak MiB |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for stage in ("initialization", "update"):
        if stage not in results:
            continue
        total = results[stage]["total"]
        lines += [
            f"| {stage} | {part} | {seconds:.4f} | {seconds / total:.0%} | |"
            for part, seconds in results[stage]["seconds"].items()
        ]
        lines.append(f"| {stage} | **all** | {total:.4f} | 100% | {results[stage]['peak_mib']:,.0f} |")
    return "\n".join(lines)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, from the command line or given words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights",
        default="random:resplat-small-dl3dv-256x448-view8",
        help="as for ns-train, or random: and the name of a released file for untrained ones",
    )
    parser.add_argument("--views", type=int, default=8, help="context views")
    parser.add_argument("--height", type=int, default=512, help="of the views, pixels")
    parser.add_argument("--width", type=int, default=960, help="of the views, pixels")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--local-knn", action="store_true", help="search neighbours only among points nearby")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of which the median is taken")
    parser.add_argument("--json", type=Path, help="file for the numbers as well")
    return parser.parse_args(words)


def main() -> None:
    arguments = parse()
    if arguments.weights.startswith("random:"):
        shape, behaviour = released_layout(arguments.weights.removeprefix("random:"))
        weights = random_weights(shape, behaviour, arguments.width)
    else:
        weights = load_weights(arguments.weights, "resplat")
    results = run(weights, arguments)
    print(markdown(results))
    if arguments.json is not None:
        write_text_whole(arguments.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
