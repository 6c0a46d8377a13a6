"""Whole steps of ``ns-train``, this tree against the commit of before, as markdown tables.

    python benchmarks/step.py --against 196d9fa

Each configuration runs in fresh processes, in turns in a worktree of the commit and in this tree, with the Python that
runs this script. Processor time is that of steps on one thread, which other work on the machine hardly disturbs; time
on the wall is that of steps on two threads. With ``--device cuda`` both are those of the host, which waits for the card
after every step. Both trees take the same steps of the same run, so that they see the same
views; a ratio is the median over steps of now to before. Memory is the most that a process has had. The second table
says where the time of a step of this tree on one thread goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

if not __package__:  # Run as a program.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.other_commit import ROOT, check_package, environment_of, git, worktree
from l2o_splat.scenes.capture import Capture, Points, write_capture, write_transforms
from l2o_splat.scenes.procedural import ProceduralOptions, generate

SIZES = ("240x180", "480x270", "958x636", "1600x1200")
NUMBERS = (5_000, 20_000, 80_000)
HEADER = (
    "image", "Gaussians", "CPU s before", "CPU s now", "ratio", "2 threads: s before", "s now", "ratio",
    "peak MB before", "peak MB now",
)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """What the steps of one tree cost in one configuration."""

    gaussians: int
    cpu_seconds: list[float]
    """Processor seconds of every step on one thread."""
    wall_seconds: list[float]
    """Seconds on the wall of every step on two threads."""
    peak_mb: float
    shares: dict[str, float]
    """Share of every part of a step; empty if the process did not sample them."""


def size_of(text: str) -> tuple[int, int]:
    """Width and height from ``480x270``."""
    try:
        width, height = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no image size; write WIDTHxHEIGHT, as in 480x270.") from None
    return width, height


def write_capture_with(points: int, capture: Capture, folder: Path) -> None:
    """Write a capture with some of its points; its photographs only if they are not there."""
    if not folder.exists():
        write_capture(folder, capture)
    chosen = torch.randperm(len(capture.points), generator=torch.Generator().manual_seed(0))[:points]
    some = Points(capture.points.xyz[chosen], capture.points.rgb[chosen])
    names = [f"images/{i:04d}.png" for i in range(len(capture.views))]
    write_transforms(folder, names, capture.views.cameras, some)


def measure(tree: Path, capture: Path, options: argparse.Namespace, sampled_seconds: float) -> Steps:
    """Run the steps in a process whose package is that of a tree."""
    script = [sys.executable, str(ROOT / "benchmarks/step_process.py"), str(capture)]
    words = [*script, "--method", options.method, "--views", str(options.views), "--steps", str(options.steps)]
    words += ["--seconds", str(options.seconds), "--sampled-seconds", str(sampled_seconds), "--device", options.device]
    done = subprocess.run(
        words, env=environment_of(tree), cwd=capture, capture_output=True, text=True, timeout=options.timeout
    )
    if done.returncode != 0:
        raise SystemExit(f"The run in {tree} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    check_package(found.pop("package"), tree)
    return Steps(**found)


def least(values: list[list[float]]) -> list[float]:
    """The shortest time of each step that every process took: other work on the machine only ever adds to it."""
    return [min(times) for times in zip(*values, strict=False)]


def table_row(size: str, before: list[Steps], now: list[Steps]) -> list[str]:
    """Cells under HEADER, from the processes of each tree: medians over the steps that all of them took."""
    cells = [size, f"{now[0].gaussians:,}"]
    for name in ("cpu_seconds", "wall_seconds"):
        old, new = (least([getattr(steps, name) for steps in tree]) for tree in (before, now))
        ratios = [after / earlier for earlier, after in zip(old, new, strict=False)]
        cells += [f"{statistics.median(times[: len(ratios)]):.3f}" for times in (old, new)]
        cells.append(f"**{statistics.median(ratios):.2f}**")
    return cells + [f"{tree[0].peak_mb:.0f}" for tree in (before, now)]


def share_row(size: str, now: Steps) -> list[str]:
    """Cells of the table of parts."""
    return [size, f"{now.gaussians:,}", *(f"{share:.1%}" for share in now.shares.values())]


def markdown(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def describe(options: argparse.Namespace) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    changed = " with changes" if git("status", "--porcelain") else ""
    return (
        f"`python {shlex.join(sys.argv)}`: {options.method}, {options.views} views per step, commit "
        f"{git('rev-parse', '--short', 'HEAD')}{changed} against {git('rev-parse', '--short', options.against)}, "
        f"{time.strftime('%Y-%m-%d')}, {cpu}, {os.cpu_count()} CPUs, torch {torch.__version__}, load "
        f"{os.getloadavg()[0]:.1f}"
    )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="196d9fa", help="the commit of before")
    parser.add_argument("--sizes", type=size_of, nargs="+", default=[size_of(size) for size in SIZES])
    parser.add_argument("--numbers", type=int, nargs="+", default=list(NUMBERS), help="numbers of Gaussians")
    parser.add_argument("--method", default="l2o-adam")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--views", type=int, default=8, help="views per step")
    parser.add_argument("--photographs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2, help="steps on one thread at least, and as many on two")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long a process goes on with them at least")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each tree")
    parser.add_argument("--sampled-seconds", type=float, default=3.0, help="how long to look where the time goes")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that a process may take")
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    print(describe(options), end="\n\n", flush=True)
    print(markdown(HEADER), markdown(["---"] * len(HEADER)), sep="\n", flush=True)
    shares = []
    with worktree(options.against) as before_tree, tempfile.TemporaryDirectory(prefix="l2o-steps-") as folder:
        for width, height in options.sizes:
            size = f"{width}x{height}"
            drawn = ProceduralOptions(options.photographs, width, height, max(options.numbers), trajectory="orbit")
            capture = generate(0, drawn, threads=os.cpu_count() or 1)
            for number in options.numbers:
                write_capture_with(number, capture, Path(folder) / size)
                found: dict[Path, list[Steps]] = {before_tree: [], ROOT: []}
                for turn in range(options.rounds):
                    for tree, processes in found.items():
                        sampled = options.sampled_seconds if tree == ROOT and turn == 0 else 0.0
                        processes.append(measure(tree, Path(folder) / size, options, sampled))
                print(markdown(table_row(size, found[before_tree], found[ROOT])), flush=True)
                shares.append(share_row(size, found[ROOT][0]))
                header = ["image", "Gaussians", *found[ROOT][0].shares]
    print("", markdown(header), markdown(["---"] * len(header)), *map(markdown, shares), sep="\n")


if __name__ == "__main__":
    main()
