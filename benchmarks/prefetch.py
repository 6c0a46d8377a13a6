"""Whether captures keep up with a training: ``python benchmarks/prefetch.py [--help]``.

A step of a given length is simulated by sleeping, as a GPU leaves the processor alone, and takes one capture. For each
kind of captures and each number of worker processes it prints the wait per step and the captures that come in a second,
as a markdown table. The first captures, during which workers start, are not counted.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from l2o_splat.initializer_training.data import SceneOptions
from l2o_splat.initializer_training.scenes import DepthSource, StoredSource
from l2o_splat.scenes.chunks.writer import ChunkWriter
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.training.chunk_options import ChunkOptions
from l2o_splat.training.chunk_source import ChunkSource
from l2o_splat.training.options import CaptureRanges
from l2o_splat.training.prefetch import Prefetched, prefetched
from l2o_splat.training.sources import ProceduralSource, Source


@dataclass(frozen=True)
class Reading:
    """How one training was fed."""

    waited_ms: float
    """Wait per step, mean."""
    processor_ms: float
    """Processor time of the training's own process per capture: what it takes to receive one, or to make it."""
    captures_per_second: float

    @property
    def starves(self) -> bool:
        """Whether a step waits for more than a tenth of a millisecond."""
        return self.waited_ms > 0.1


def measure(captures: Prefetched, steps: int, step_seconds: float, warm_up: int) -> Reading:
    """Feed simulated steps, after some that are not counted."""
    for _ in range(warm_up):
        next(captures)
    before, begin, processor = captures.waited_seconds, time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(captures)
        time.sleep(step_seconds)
    elapsed = time.perf_counter() - begin
    processor = time.process_time() - processor
    return Reading(1e3 * (captures.waited_seconds - before) / steps, 1e3 * processor / steps, steps / elapsed)


def sources(folder: Path, stored: int, large: bool) -> dict[str, Callable[[], Source]]:
    """The kinds of captures, by their names in the table."""
    sizes = SceneOptions(sizes=((256, 448),), portrait_share=0.0, num_views=(14, 14)) if large else SceneOptions()
    side = ((256, 256), (448, 448), (14, 14)) if large else ((64, 80), (96, 128), (9, 28))
    ranges = CaptureRanges(short_side=side[0], long_side=side[1], num_views=side[2])
    return {
        "procedural": lambda: ProceduralSource(ranges=ranges),
        "stored": lambda: StoredSource(DepthSource(options=sizes), folder / "stored", stored),
        "chunks": lambda: chunks(folder / "chunks", (256, 448) if large else (80, 112)),
    }


def chunks(folder: Path, size: tuple[int, int]) -> ChunkSource:
    """Views decoded from the JPEG of scenes a fifth larger than they are used, 14 of 20 each."""
    height, width = (side * 6 // 5 for side in size)
    scenes = ProceduralOptions(num_views=20, width=width, height=height, num_points=500)
    ChunkWriter().write(folder, ((f"scene-{seed}", generate(seed, scenes)) for seed in range(3)), report=print)
    return ChunkSource(ChunkOptions(folder, size, sampler="whole-scene", points=folder / "points"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-ms", type=float, default=5.0, help="length of the simulated step")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stored", type=int, default=8, help="number of stored captures")
    parser.add_argument("--large", action="store_true", help="14 views of 256 x 448, as the papers train on")
    parser.add_argument("--kinds", nargs="+", help="only these kinds of captures")
    arguments = parser.parse_args()
    print(f"Steps of {arguments.step_ms:g} ms.\n")
    print("| captures | workers | wait per step, ms | processor here per capture, ms | captures/s |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, make in sources(Path(folder), arguments.stored, arguments.large).items():
            if arguments.kinds and kind not in arguments.kinds:
                continue
            source = make()
            source.prepare()
            if kind == "stored":
                for index in range(arguments.stored):
                    source.capture(index)
            steps = arguments.steps if kind != "procedural" else min(arguments.steps, 20)
            for workers in arguments.workers:
                with prefetched(source, itertools.count(), workers) as captures:
                    reading = measure(captures, steps, arguments.step_ms / 1e3, warm_up=1 + 3 * workers)
                numbers = (reading.waited_ms, reading.processor_ms, reading.captures_per_second)
                print(f"| {kind} | {workers} | {' | '.join(f'{number:.1f}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
