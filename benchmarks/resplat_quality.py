"""What ReSplat's depths and updates are worth on captures: ``python benchmarks/resplat_quality.py [--help]``.

    python benchmarks/resplat_quality.py --data D/banana D/fern D/plush D/herzjesu --weights REF --out report/resplat

Each capture is parted by the sparse protocol of ``l2o bench``: context views spread over the cameras, and target views
between them, which nothing else here sees. Four questions, a markdown table for each, all numbers in a JSON file:

* **Start**: PSNR before the first update; and the same where every view has a single depth, the median of those that
  the depth network found, all later networks running on it. What is not lost by this was no use of depth.
* **Depth**: Spearman's rank correlation of predicted depths with those of the structure-from-motion points, over the
  points of each context view. Of the points in a square of some pixels the nearest counts, since it may hide others.
* **Updates**: PSNR after each update of the initial model's scene and, if the weights can, of Gaussians at the points.
* **Equal time**: the tuned Adam rule (``l2o-adam-tuned``) in the time that the updates took, its rates decaying over
  as many steps as fit, all context views in each: from the same Gaussians, from the points, and from the points with
  the time of the initial model as well.

Context views are compared at the size that the networks saw, target views at that of ``--longer-side``. Evaluations and
the first use of everything do not count as time. Worlds are as recorded, since networks work in units of the dataset.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

if not __package__:  # Run as a program.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.resplat_quality_tables import markdown
from l2o_splat.environment import environment
from l2o_splat.files import write_text_whole
from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.context_views import depth_range
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.initializers.resplat import DepthRange, InitialScene, ReSplatInitializer, SparsePoints
from l2o_splat.meta.episode import Episode
from l2o_splat.meta.evaluation import held_out_psnr
from l2o_splat.meta.options import InnerLoop
from l2o_splat.meta.unroll import roll_out
from l2o_splat.nets.resplat.depth import DepthFeatures
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import Feedback, RenderedViews, UpdateRule
from l2o_splat.plugin.training_captures import read_training_capture
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.scenes.capture import Capture, Points
from l2o_splat.scenes.capture_names import find_capture
from l2o_splat.scenes.split import split_views
from l2o_splat.view_sampling import ViewSampler
from l2o_splat.views import PinholeCameras, Views
from l2o_splat.weights import Weights, load_weights

AS_RECORDED = ("--orientation-method", "none", "--center-method", "none", "--no-auto-scale-poses")
"""Options of nerfstudio's dataparsers that leave the world as it is."""
KEEP_WORLDS = ("nerfstudio-data", "colmap")
"""Dataparsers that have them."""
BLOCKS = 30
"""Blocks into which the sparse points are divided."""
SQUARE = 8
"""Side of the squares of which one point counts, pixels of the images that the networks saw."""
FEWEST_POINTS = 10
"""Fewest points of a view that give a correlation."""
TIMED_STEPS = 5
"""Steps of Adam whose median tells how many fit."""


@dataclass
class Options:
    """What to measure."""

    data: tuple[str, ...]
    """Folders of captures that nerfstudio reads, or l2o-demo:SEED."""
    weights: str
    """Weights of ReSplat, named as for ns-train."""
    out: Path = Path("resplat_quality")
    """The tables go to this with .md, the numbers with .json behind it."""
    views: int = 8
    """Context views."""
    longer_side: int = 192
    """Larger images are reduced to this, pixels."""
    updates: int = 4
    """Updates taken."""
    kept_back: float = 1 / 3
    """Share of the sparse points, in blocks of space, that the networks are not shown; depths are judged by these. With
    0 they are shown all, and judged by all."""
    depth_range: Literal["weights", "points"] | None = None
    """Depths of the plane sweep: those of the weights, or those of the points. None: as the weights say."""
    dataparser: str | None = None
    """nerfstudio's dataparser and its options, for captures whose format is not recognised."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Parted:
    """A capture as this benchmark uses it, on the device."""

    context: Views
    target: Views
    points: Points
    shown: Points
    """Those that the networks see."""
    judges: Points
    """Those that depths are compared with."""


def read_capture(text: str, options: Options) -> tuple[str, Capture]:
    """Name and content of one entry of ``data``, its images reduced.

    Raises:
        ValueError: If it cannot be used.
    """
    found = find_capture(text, options.dataparser)
    words = found.dataparser
    if options.dataparser is None and words[0] in KEEP_WORLDS:
        words += AS_RECORDED
    data = None if found.data is None else Path(found.data)
    capture = read_training_capture(data, words)
    cameras = capture.views.cameras
    scale = options.longer_side / max(cameras.width, cameras.height)
    return found.scene, capture if scale >= 1 else read_training_capture(data, words, scale)


def part(capture: Capture, num_context: int, device: torch.device, kept_back: float = 0.0) -> Parted:
    """Context and target views by the sparse protocol, and the points in two parts.

    Raises:
        ValueError: If the capture has too few views.
    """
    centres = capture.views.cameras.centres.numpy()
    context, target = (capture.views[chosen].to(device) for chosen in split_views(centres, num_context))
    points = capture.points.to(device)
    if not kept_back:
        return Parted(context, target, points, points, points)
    back = in_blocks(points.xyz, kept_back)
    shown, judges = (Points(points.xyz[some], points.rgb[some]) for some in (~back, back))
    return Parted(context, target, points, shown, judges)


def in_blocks(xyz: Float[Tensor, "p 3"], share: float) -> Bool[Tensor, " p"]:
    """A share of the blocks of points, each of them all points nearest to one of some drawn at random."""
    generator = torch.Generator().manual_seed(0)
    centres = xyz[torch.randperm(len(xyz), generator=generator)[:BLOCKS].to(xyz.device)]
    block = torch.cdist(xyz, centres).argmin(dim=1)
    chosen = torch.randperm(len(centres), generator=generator)[: round(share * len(centres))]
    return torch.isin(block, chosen.to(xyz.device))


# Depth


def flattened(found: DepthFeatures) -> DepthFeatures:
    """The same with one depth per view, the median."""
    median = found.depth.flatten(1).median(dim=1).values
    return replace(found, depth=median[:, None, None, None].expand_as(found.depth))


def predict_flat(
    initializer: ReSplatInitializer,
    context: Views,
    near_far: DepthRange | None = None,
    points: SparsePoints | None = None,
) -> InitialScene:
    """The scene that the initial model makes where every view has a single depth.

    Args:
        initializer: Unchanged afterwards.
        context: See :class:`ReSplatInitializer`.
        near_far: Range of depths, scene units; None for that of the weights.
        points: Sparse points that the networks see.
    """

    def answer(_, __, found: DepthFeatures) -> DepthFeatures:
        return flattened(found)

    with initializer.model.depth_predictor.register_forward_hook(answer):
        return initializer(context, depth_range=near_far, points=points)


def relative_error(
    depth: Float[Tensor, "v h w"], cameras: PinholeCameras, points: Float[Tensor, "p 3"]
) -> float | None:
    """Median relative difference of depth maps from the depths of points over all views; arguments as below."""
    found = [
        (depth[view, row, column].log() - truth.log()).abs()
        for view in range(len(cameras))
        for row, column, truth in [nearest_points(cameras, view, points)]
    ]
    errors = torch.cat(found)
    return float(errors.median()) if len(errors) else None


def rank_correlations(
    depth: Float[Tensor, "v h w"], cameras: PinholeCameras, points: Float[Tensor, "p 3"]
) -> tuple[list[float | None], list[int]]:
    """Spearman's correlation of depth maps with the depths of points, and the number of points, for every view.

    Args:
        depth: Camera z of every pixel, any units.
        cameras: Of the same views and size.
        points: World frame, scene units.

    Returns:
        None for views that see too few points, or have the same depth everywhere.
    """
    values: list[float | None] = []
    counts: list[int] = []
    for view in range(len(cameras)):
        row, column, truth = nearest_points(cameras, view, points)
        found = depth[view, row, column]
        counts.append(len(truth))
        constant = len(truth) == 0 or bool((found == found[0]).all() or (truth == truth[0]).all())
        enough = len(truth) >= FEWEST_POINTS and not constant
        values.append(float(spearmanr(found.cpu(), truth.cpu()).statistic) if enough else None)
    return values, counts


def nearest_points(
    cameras: PinholeCameras, view: int, points: Float[Tensor, "p 3"]
) -> tuple[Tensor, Tensor, Float[Tensor, " m"]]:
    """Pixel row, column and depth (camera z) of the nearest point in each square of a view that holds any."""
    camera = cameras[view : view + 1]
    pixels, depth = camera.project(points)
    inside = camera.inside(pixels, depth)
    depth, order = depth[inside].sort()
    column, row = pixels[inside][order].long().unbind(dim=1)
    square = row // SQUARE * cameras.width + column // SQUARE
    # The first of each square, as they are in order of depth.
    first = torch.full((int(square.max()) + 1 if len(square) else 0,), len(square), device=square.device)
    first = first.scatter_reduce(0, square, torch.arange(len(square), device=square.device), "amin")
    kept = first[first < len(square)]
    return row[kept], column[kept], depth[kept]


# Updates and steps


class Clock:
    """Seconds of some work, all of it done."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def time(self, work: Callable, *arguments: Any) -> tuple[Any, float]:
        """What the work returns, and how long it took."""
        self._wait()
        begin = time.perf_counter()
        result = work(*arguments)
        self._wait()
        return result, time.perf_counter() - begin

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()


def start(
    rule: UpdateRule,
    gaussians: Gaussians,
    context: Views,
    target: Views,
    features: Float[Tensor, "n f"] | None = None,
) -> Episode:
    """Nothing has been done to the Gaussians yet, and every step sees all of the context views."""
    centres = context.cameras.centres
    sampler = ViewSampler(centres.cpu().numpy(), len(context), "sequential", 0)
    state = rule.init_state(SceneStart(gaussians, features))
    return Episode(0, context, target, sampler, SceneKnowledge(centres), gaussians, state)


def quality(episode: Episode, loop: InnerLoop) -> dict[str, float]:
    """Mean PSNR (dB) of target and context views."""
    of_context = replace(episode, target=episode.context)
    return {"target": held_out_psnr(episode, loop), "context": held_out_psnr(of_context, loop)}


@torch.no_grad()
def update(rule: ReSplatRule, episode: Episode, loop: InnerLoop) -> Episode:
    """The episode one update of ReSplat later."""
    views = episode.context
    rendered = RenderedViews(views, render(episode.gaussians, views.cameras, loop.raster).rgb)
    feedback = Feedback(None, episode.step, episode.scene.extent, rendered)
    delta, state = rule(episode.gaussians, feedback, episode.state)
    return episode.moved(episode.gaussians.zip_map(torch.add, delta), state)


def run_updates(rule: ReSplatRule, episode: Episode, count: int, loop: InnerLoop, clock: Clock) -> dict[str, Any]:
    """PSNR before and after each update, and the seconds of all."""
    update(rule, episode, loop)  # Pays for what is built once.
    curve, seconds = [quality(episode, loop)], 0.0
    for _ in range(count):
        episode, taken = clock.time(update, rule, episode, loop)
        seconds += taken
        curve.append(quality(episode, loop))
    return {"psnr": curve, "seconds": seconds, "gaussians": len(episode.gaussians)}


def run_adam(
    gaussians: Gaussians, context: Views, target: Views, seconds: float, loop: InnerLoop, clock: Clock
) -> dict[str, Any]:
    """The tuned Adam rule for as many steps as fit into a time, but at least one."""

    rule = AdamRule(adam_options("own-scale", TIMED_STEPS))
    trial, laps = roll_out(rule, start(rule, gaussians, context, target), 1, loop), []
    for _ in range(TIMED_STEPS):
        trial, taken = clock.time(roll_out, rule, trial, 1, loop)
        laps.append(taken)
    steps = max(1, int(seconds / statistics.median(laps)))
    rule = AdamRule(adam_options("own-scale", steps))
    episode, taken = clock.time(roll_out, rule, start(rule, gaussians, context, target), steps, loop)
    return {
        **quality(episode, loop),
        "gaussians": len(gaussians),
        "steps": steps,
        "seconds": taken,
        "allowed_seconds": seconds,
    }


def run_updates_from_points(
    rule: ReSplatRule, points: Points, context: Views, target: Views, count: int, loop: InnerLoop, clock: Clock
) -> dict[str, Any] | None:
    """What the updates make of Gaussians at the points; None for weights that were not trained on such."""
    if rule.config.update_starts != "any":
        return None
    episode = start(rule, gaussians_from_points(points.xyz, points.rgb), context, target)
    return run_updates(rule, episode, count, loop, clock)


# One capture


def measure(parted: Parted, weights: Weights, options: Options) -> dict[str, Any]:
    """Every number of one capture.

    Raises:
        ValueError: If the initial model refuses the context views.
        FloatingPointError: If a scene is not finite any more.
    """
    context, target, clock = parted.context, parted.target, Clock(parted.context.images.device)
    behaviour = {} if options.depth_range is None else {"depth_range": options.depth_range}
    initializer = ReSplatInitializer.from_weights(weights, **behaviour).to(context.images.device)
    near_far = None
    if initializer.config.depth_range == "points":
        near_far = depth_range(parted.points.xyz, context.cameras)
    loop = InnerLoop(weights.card.raster_settings or RasterSettings())
    shown = parted.shown.xyz, parted.shown.rgb
    # First, so that what follows pays for nothing built once.
    flat = predict_flat(initializer, context, near_far, shown)
    scene, initial_seconds = clock.time(initializer, context, 1.0, near_far, 0.0, shown)
    correlations, counts = rank_correlations(scene.depth, scene.context.cameras, parted.judges.xyz)
    still = AdamRule(adam_options("own-scale", 1))
    size = scene.context.cameras
    result: dict[str, Any] = {
        "context_views": len(context),
        "target_views": len(target),
        "network_size": [size.width, size.height],
        "gaussians": len(scene.gaussians),
        "initialization_seconds": initial_seconds,
        "start": {
            name: quality(start(still, predicted.gaussians, scene.context, target), loop)
            for name, predicted in (("depth", scene), ("median_depth", flat))
        },
        "rank_correlation": correlations,
        "points_per_view": counts,
        "depth_error": relative_error(scene.depth, scene.context.cameras, parted.judges.xyz),
    }
    if initializer.model.shape.update is not None:
        rule = ReSplatRule.from_weights(weights, **behaviour).to(context.images.device)
        result |= measure_updates(rule, scene, parted, options.updates, initial_seconds, loop, clock)
    return result


def measure_updates(
    rule: ReSplatRule,
    scene: InitialScene,
    parted: Parted,
    count: int,
    initial_seconds: float,
    loop: InnerLoop,
    clock: Clock,
) -> dict[str, Any]:
    """The updates from either start, and what the tuned Adam rule reaches in their time."""
    context, target = scene.context, parted.target
    episode = start(rule, scene.gaussians, context, target, scene.features.float())
    updates = {"initial model": run_updates(rule, episode, count, loop, clock)}
    of_points = run_updates_from_points(rule, parted.points, context, target, count, loop, clock)
    if of_points is not None:
        updates["points"] = of_points
    points = gaussians_from_points(parted.points.xyz, parted.points.rgb)
    seconds = updates["initial model"]["seconds"]
    runs = [
        ("initial model", "time of the updates", scene.gaussians, seconds),
        ("points", "time of the updates", points, seconds),
        ("points", "time of initialization and updates", points, initial_seconds + seconds),
    ]
    if of_points is not None:
        runs.append(("points", "time of the updates from points", points, of_points["seconds"]))
    equal_time = [
        {"start": where, "budget": budget, **run_adam(gaussians, context, target, allowed, loop, clock)}
        for where, budget, gaussians, allowed in runs
    ]
    return {"updates": updates, "equal_time": equal_time}


def main(options: Options) -> None:
    """Measure every capture; write and print the tables."""
    weights = load_weights(options.weights, "resplat")
    device = torch.device(options.device)
    captures: dict[str, Any] = {}
    refused: dict[str, str] = {}
    results = {
        "environment": environment(),
        "weights": weights.card.source,
        "sha256": weights.card.sha256,
        "updates": options.updates,
        "captures": captures,
        "refused": refused,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for text in options.data:
        try:
            name, capture = read_capture(text, options)
            captures[name] = measure(part(capture, options.views, device, options.kept_back), weights, options)
        except (ValueError, FloatingPointError) as error:
            refused[text] = str(error)
        # After each capture, so that a long run that is ended has its numbers.
        write_text_whole(options.out.with_name(options.out.name + ".json"), json.dumps(results, indent=2) + "\n")
        write_text_whole(options.out.with_name(options.out.name + ".md"), markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
