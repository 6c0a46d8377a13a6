"""Cost of a gradient through the refinement: ``python benchmarks/implicit_gradient.py [--help]``.

Prints a markdown table of seconds and memory over the number of inner Adam steps T: backward by PCG
(``implicit_damped``), by unrolling every step, and not at all but for passing the gradient on (``first_order``).
Unrolling needs the torch renderer, so that all modes are compared on it; a second table has the fast renderer of the
device for the modes that can use it. Ratios are to PCG at the same T in the same run.

Every measurement is taken once, in a fresh process: memory is what inner run and backward pass add to a process that
has rendered before, in tensors on CUDA, resident on the CPU.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from l2o_splat import __version__
from l2o_splat.bench.memory import PeakMemory
from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.implicit.layer import proximal_refine
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.pcg import PCG
from l2o_splat.implicit.solvers import AdamSolver
from l2o_splat.rendering import render
from l2o_splat.views import PinholeCameras, Views

MODES = (BackwardMode.IMPLICIT_DAMPED, BackwardMode.UNROLL, BackwardMode.FIRST_ORDER)
"""Ratios are to the first."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    steps: tuple[int, ...] = (10, 25, 50, 100, 200)
    """Numbers of inner steps T."""
    side: int = 32
    """Height and width of the images of both views, pixels; there is one Gaussian per pixel."""
    iterations: int = 16
    """PCG iterations, all of which are taken."""
    longest_unrolled: int = 50
    """No more inner steps than this are unrolled, for want of memory."""
    seed: int = 0
    """Seed of the scene."""


def pixel_aligned_scene(options: Options) -> tuple[Gaussians, ContextViews, ContextViews]:
    """Two views with one Gaussian per pixel, as a feed-forward network predicts them, and photographs of a variant."""
    side, generator = options.side, torch.Generator().manual_seed(options.seed)
    focal = 1.2 * side
    rows, columns = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    pixels = torch.stack([columns, rows], dim=2).reshape(-1, 2)
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = -0.2
    means, sizes = [], []
    for viewmat in viewmats:
        depths = 2 + 0.3 * torch.rand(len(pixels), 1, generator=generator)
        local = torch.cat([(pixels - side / 2) / focal * depths, depths], dim=1)
        means.append(local - viewmat[:3, 3])
        sizes.append(0.7 * depths / focal)
    n = 2 * len(pixels)
    truth = Gaussians(
        means=torch.cat(means),
        scales=torch.cat(sizes).log().repeat(1, 3) + 0.2 * torch.randn(n, 3, generator=generator),
        quats=torch.randn(n, 4, generator=generator),
        opacities=torch.randn(n, 1, generator=generator),
        features_dc=(torch.rand(n, 3, generator=generator) - 0.5) / SH_C0,
        features_rest=torch.zeros(n, 0, 3),
    )
    anchor = truth.map(lambda tensor: tensor + 0.02 * torch.randn(tensor.shape, generator=generator))
    K = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]]).repeat(2, 1, 1)
    cameras = PinholeCameras(viewmats, K, side, side).to(options.device)
    views = Views(cameras, render(truth.to(options.device), cameras).rgb)
    return anchor.to(options.device), ContextViews(views, backend="reference"), ContextViews(views)


@dataclass(frozen=True)
class Measurement:
    inner_seconds: float
    backward_seconds: float
    mebibytes: float


def measure(options: Options, mode: BackwardMode, steps: int, fast: bool) -> Measurement:
    """Refine once and go back once."""
    anchor, slow_views, fast_views = pixel_aligned_scene(options)
    views = fast_views if fast else slow_views
    _once(anchor, views, mode, 1, PCG(max_iterations=1, probes=1))  # Compiles, and fills caches.
    memory = PeakMemory(options.device)
    before = _forget_the_peak(options.device)
    inner, backward = _once(anchor, views, mode, steps, PCG(max_iterations=options.iterations, tolerance=0.0))
    return Measurement(inner, backward, memory.mib - before)


def _once(anchor: Gaussians, views: ContextViews, mode: BackwardMode, steps: int, linear: PCG) -> tuple[float, float]:
    leaves = anchor.map(lambda tensor: tensor.clone().requires_grad_())
    precision = torch.full((len(anchor), 5), 0.05, device=anchor.device, requires_grad=True)
    start = _now(anchor.device)
    refined, _ = proximal_refine(leaves, precision, views, AdamSolver(steps=steps), mode, linear)
    middle = _now(anchor.device)
    refined.pack().square().sum().backward()
    return middle - start, _now(anchor.device) - middle


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _forget_the_peak(device: str) -> float:
    """Memory now, MiB, from which a new peak is counted."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
    return PeakMemory(device).mib


def in_fresh_process(*arguments) -> Measurement:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def table(options: Options, fast: bool) -> None:
    header = ("T", "backward mode", "inner s", "backward s", "total s", "x PCG", "MiB", "MiB x PCG")
    row(*header)
    row(*("---" for _ in header))
    for steps in options.steps:
        baseline = None
        for mode in MODES:
            if mode is BackwardMode.UNROLL and (fast or steps > options.longest_unrolled):
                continue
            found = in_fresh_process(options, mode, steps, fast)
            baseline = baseline or found
            total = found.inner_seconds + found.backward_seconds
            times = total / (baseline.inner_seconds + baseline.backward_seconds)
            space = found.mebibytes / baseline.mebibytes if baseline.mebibytes > 0 else float("nan")
            seconds = (f"{value:.3g}" for value in (found.inner_seconds, found.backward_seconds, total))
            row(steps, mode.value, *seconds, f"{times:.2f}", f"{found.mebibytes:.1f}", f"{space:.2f}")


def main(options: Options) -> None:
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} cores"
    print(f"`python {shlex.join(sys.argv)}`, l2o_splat {__version__}, torch {torch.__version__}, ", end="")
    print(f"{machine}, {torch.get_num_threads()} threads, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    gaussians = 2 * options.side**2
    print(f"2 views of {options.side} x {options.side}, {gaussians} Gaussians, {options.iterations} PCG iterations\n")
    print("Torch renderer\n")
    table(options, fast=False)
    print("\nRenderer of the device\n")
    table(options, fast=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
