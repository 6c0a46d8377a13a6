"""Speed and memory of the renderers, as a markdown table.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/rasterizer.py
    OMP_WAIT_POLICY=PASSIVE python benchmarks/rasterizer.py --against 196d9fa

Each time is the least of many calls, since other work on the machine only ever adds to it: processor time with one
thread, time on the wall with two. The torch twin (``reference``) is measured once, in a few configurations, in the
same run; ratios compare forward + backward. Memory is what one forward + backward adds to the resident memory of a
fresh process, gradients included. With ``--against`` the kernels of another commit take turns with those of this tree,
each time in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

if not __package__:  # Run as a program.
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import l2o_splat
from benchmarks.other_commit import ROOT, check_package, environment_of, worktree
from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import RasterSettings, Rendering, linearize, render
from l2o_splat.views import PinholeCameras

NUMBERS = (5_000, 20_000, 57_344, 100_000)
SIZES = ((448, 256), (960, 540))
"""Width and height."""
TWIN = ((5_000, (448, 256)), (57_344, (448, 256)), (100_000, (960, 540)))
"""What the torch twin is measured on."""
SETTINGS = RasterSettings(depth=True)
LAYERS = 8
ROUNDS = 3
"""Processes of each tree in a comparison."""


def feed_forward_scene(n: int, size: tuple[int, int]) -> tuple[Gaussians, PinholeCameras]:
    """What a feed-forward network predicts: layers of Gaussians about as large as the distance between them."""
    generator = torch.Generator().manual_seed(0)
    width, height = size
    focal = 0.8 * width
    spacing = math.sqrt(width * height * LAYERS / n)
    depths = 2 + 0.5 * (torch.arange(n) % LAYERS) + 0.3 * torch.rand(n, generator=generator)
    x, y = ((torch.rand(n, generator=generator) - 0.5) * side / focal * depths for side in (width, height))
    sizes = (spacing / 2 / focal * depths)[:, None] * (0.2 * torch.randn(n, 3, generator=generator)).exp()
    gaussians = Gaussians(
        means=torch.stack([x, y, depths], dim=1),
        scales=sizes.log(),
        quats=torch.randn(n, 4, generator=generator),
        opacities=1.5 * torch.randn(n, 1, generator=generator),
        features_dc=torch.randn(n, 3, generator=generator),
        features_rest=0.1 * torch.randn(n, 15, 3, generator=generator),
    )
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])
    return gaussians, PinholeCameras(torch.eye(4)[None], K, width, height)


def steps(n: int, size: tuple[int, int], backend: str, device: str) -> dict[str, Callable[[], object]]:
    """The calls that are measured."""
    gaussians, cameras = feed_forward_scene(n, size)
    gaussians, cameras = gaussians.to(device), cameras.to(device)
    leaves = gaussians.map(lambda tensor: tensor.clone().requires_grad_())

    def forward() -> Rendering:
        with torch.no_grad():
            return render(gaussians, cameras, SETTINGS, backend)

    def forward_backward() -> None:
        rendering = render(leaves, cameras, SETTINGS, backend)
        images = [rendering.rgb, rendering.alpha, rendering.depth]
        torch.autograd.grad(images, [leaf for _, leaf in leaves.items()], [torch.ones_like(image) for image in images])

    calls = {"forward": forward, "forward_backward": forward_backward}
    if backend == "cpu":
        linearization = linearize(gaussians, cameras, SETTINGS, backend)
        calls["jvp"] = lambda: linearization.jvp(gaussians)
    return calls


def _clock(threads: int) -> Callable[[], float]:
    """Processor time is not disturbed by other work on the machine, but does not show what threads gain."""
    return time.process_time if threads == 1 else time.perf_counter


def seconds_of(
    call: Callable[[], object],
    budget: float,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], None] = lambda: None,
) -> float:
    """Least time of one call, out of as many as fit in ``budget`` seconds after a first one.

    Without a budget there is one call only.
    """
    if budget > 0:
        call()
    best, end = math.inf, time.perf_counter() + budget
    while best == math.inf or time.perf_counter() < end:
        synchronize()
        start = clock()
        call()
        synchronize()
        best = min(best, clock() - start)
    return best


def in_fresh_process(n: int, size: tuple[int, int], backend: str, threads: int) -> tuple[float, float, float | None]:
    """Seconds of one forward and one forward + backward, and megabytes added by the latter."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_once, (n, size, backend, threads))


def _once(n: int, size: tuple[int, int], backend: str, threads: int) -> tuple[float, float, float | None]:
    torch.set_num_threads(threads)
    warm = steps(100, (64, 32), backend, "cpu")
    for call in warm.values():
        call()
    calls = steps(n, size, backend, "cpu")
    before = _resident_megabytes("VmRSS")
    if before is not None:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    both = seconds_of(calls["forward_backward"], 0, clock=_clock(threads))
    after = _resident_megabytes("VmHWM")
    forward = seconds_of(calls["forward"], 0, clock=_clock(threads))
    return forward, both, None if before is None else after - before


def _resident_megabytes(name: str) -> float | None:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def table_of_cpu(numbers: list[int], budget: float) -> None:
    header = (
        "Gaussians", "image", "threads", "forward ms", "forward + backward ms", "JVP ms", "memory MB",
        "twin forward ms", "twin f + b ms", "twin memory MB", "twin / ours",
    )  # fmt: skip
    row(*header)
    row(*("---" for _ in header))
    for size in SIZES:
        for n in numbers:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                calls = steps(n, size, "cpu", "cpu")
                times = {name: seconds_of(call, budget, _clock(threads)) for name, call in calls.items()}
                _, _, memory = in_fresh_process(n, size, "cpu", threads)
                twin = in_fresh_process(n, size, "reference", threads) if (n, size) in TWIN else (None, None, None)
                row(
                    n, f"{size[1]}x{size[0]}", threads, *(milliseconds(value) for value in times.values()),
                    "-" if memory is None else f"{memory:.0f}", milliseconds(twin[0]), milliseconds(twin[1]),
                    "-" if twin[2] is None else f"{twin[2]:.0f}",
                    "-" if twin[1] is None else f"{twin[1] / times['forward_backward']:.0f}x",
                )  # fmt: skip


def table_against(commit: str, numbers: list[int], budget: float) -> None:
    """The least times of the kernels of a commit and of this tree, out of processes that take turns."""
    header = ["Gaussians", "image", "threads"]
    header += [f"{name} ms {when}" for name in ("forward", "forward + backward", "JVP") for when in ("before", "now")]
    row(*header, "now / before")
    row(*("---" for _ in range(len(header) + 1)))
    with worktree(commit) as before:
        for size in SIZES:
            for n in numbers:
                for threads in (1, 2):
                    found = {before: [], ROOT: []}
                    for _ in range(ROUNDS):
                        for tree, runs in found.items():
                            runs.append(times_of(tree, n, size, threads, budget / ROUNDS))
                    old, new = ([min(times) for times in zip(*runs, strict=True)] for runs in found.values())
                    cells = [milliseconds(value) for pair in zip(old, new, strict=True) for value in pair]
                    row(n, f"{size[1]}x{size[0]}", threads, *cells, f"{new[1] / old[1]:.2f}")


def times_of(tree: Path, n: int, size: tuple[int, int], threads: int, budget: float) -> list[float]:
    """Seconds of forward, forward + backward and JVP of the kernels of a tree, in a fresh process."""
    words = [sys.executable, __file__, "--as-process", *map(str, (n, *size, threads, budget))]
    done = subprocess.run(words, env=environment_of(tree), cwd=tree, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    check_package(found["package"], tree)
    return found["seconds"]


def print_times(n: int, size: tuple[int, int], threads: int, budget: float) -> None:
    """What :func:`times_of` reads."""
    torch.set_num_threads(threads)
    calls = steps(n, size, "cpu", "cpu").values()
    seconds = [seconds_of(call, budget, _clock(threads)) for call in calls]
    print(json.dumps({"package": str(Path(l2o_splat.__file__).parent), "seconds": seconds}))


def table_of_gsplat(numbers: list[int], budget: float) -> None:
    row("Gaussians", "image", "gsplat forward ms", "gsplat forward + backward ms")
    row("---", "---", "---", "---")
    for size in SIZES:
        for n in numbers:
            calls = steps(n, size, "gsplat", "cuda").values()
            times = [seconds_of(call, budget, synchronize=torch.cuda.synchronize) for call in calls]
            row(n, f"{size[1]}x{size[0]}", *(milliseconds(value) for value in times))


def describe_machine() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    vectors = (
        "AVX-512"
        if any("avx512f" in line for line in lines)
        else "AVX2"
        if any("avx2" in line for line in lines)
        else "?"
    )
    return (
        f"commit {commit.stdout.strip() or '?'}, {date.today()}, {cpu} ({vectors}), {os.cpu_count()} CPUs, "
        f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=int, nargs="+", default=list(NUMBERS), help="numbers of Gaussians")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each measured call")
    parser.add_argument("--against", help="a commit whose kernels are measured beside those of this tree")
    parser.add_argument("--as-process", type=float, nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_process:
        n, width, height, threads, budget = arguments.as_process
        print_times(int(n), (int(width), int(height)), int(threads), budget)
        return
    print(describe_machine(), end="\n\n", flush=True)
    if arguments.against:
        table_against(arguments.against, arguments.numbers, arguments.budget)
        return
    table_of_cpu(arguments.numbers, arguments.budget)
    if torch.cuda.is_available():
        print(f"\n{torch.cuda.get_device_name()}\n")
        table_of_gsplat(arguments.numbers, arguments.budget)


if __name__ == "__main__":
    main()
