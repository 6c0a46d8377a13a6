"""Milliseconds per inner step, phase by phase: ``python benchmarks/optimizer_step.py [--help]``.

Prints three markdown tables. The first compares rules on the same scene in one run. The second times the update alone,
with gradients drawn at random, by the kind of work in a step. The third, on the CPU, says what the networks spend their
time on, and how far they are from the multiply-adds alone.

On the CPU with one thread (``OMP_NUM_THREADS=1``) it is processor time, which other programs hardly touch.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor, nn
from torch.nn import Parameter

from l2o_splat import __version__
from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
from l2o_splat.losses import photometric_loss
from l2o_splat.nets.point_transformer import NeighbourAttention, PointTransformer
from l2o_splat.optim import gain, learn2splat
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.gain import GainRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.proposal import ProposingRule
from l2o_splat.optim.registry import RuleOptions, rule_entry, weights_of
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneKnowledge
from l2o_splat.scenes.procedural import ProceduralCapture, ProceduralOptions, generate

RuleName = Literal["adam", "learn2splat", "learn2splat-fast", "gain-mini"]
PHASES = ("render", "loss", "backward", "neighbours", "network", "apply")
PARTS = ("matrix products", "attention", "normalisation")
UPDATES = 40
"""Steps of the update alone; from about 20 on learned rules do not query their network in each."""
MATRIX_SIDE = 2048
"""Side of the square matrices whose product gives the machine's speed."""


@dataclass
class Options:
    """What to measure; None takes the value for the device."""

    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    sizes: tuple[int, ...] | None = None
    """Numbers of Gaussians; 5000 20000 on the CPU, 5000 20000 57000 139000 on CUDA."""
    rules: tuple[RuleName, ...] = ("adam", "learn2splat", "gain-mini")
    """learn2splat-fast processes all Gaussians and keeps neighbours for 100 steps; gain-mini runs the weights
    that come with the package."""
    weights: str = "random:0"
    """Weights of learn2splat and learn2splat-fast; untrained ones of the same width take the same time."""
    views: int = 8
    """Views per step."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images; 130 195 on the CPU, 520 780 on CUDA."""
    steps: int | None = None
    """Steps measured after a warm-up, of which the fastest is reported; 4 on the CPU, 20 on CUDA."""
    seed: int = 0
    """Seed of the procedural capture."""

    def __post_init__(self) -> None:
        on_cpu = self.device == "cpu"
        self.sizes = self.sizes or ((5000, 20000) if on_cpu else (5000, 20000, 57000, 139000))
        self.image_size = self.image_size or ((130, 195) if on_cpu else (520, 780))
        self.steps = self.steps or (4 if on_cpu else 20)


class Stopwatch:
    """Time of named phases; on CUDA between events, read after synchronising, on one thread of the CPU its own."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._marks: list[tuple[str, object, object]] = []

    def _now(self) -> object:
        if not self._cuda:
            return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self._marks.append((name, start, self._now()))

    def timed(self, name: str, function: Callable) -> Callable:
        """``function``, every call of which counts."""

        def call(*args, **kwargs):
            with self.phase(name):
                return function(*args, **kwargs)

        return call

    def read(self) -> dict[str, float]:
        """Milliseconds per name since the last reading."""
        if self._cuda:
            torch.cuda.synchronize()
        total: dict[str, float] = defaultdict(float)
        for name, start, end in self._marks:
            total[name] += start.elapsed_time(end) if self._cuda else 1e3 * (end - start)
        self._marks.clear()
        return total


class PeakMemory:
    """Most memory held since the last reset: by the device's tensors on CUDA, by this process on the CPU."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"

    def reset(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        elif os.access("/proc/self/clear_refs", os.W_OK):
            Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self) -> float:
        if self._cuda:
            return torch.cuda.max_memory_allocated() / 1e6
        status = Path("/proc/self/status").read_text()
        return next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6


def build_rule(name: RuleName, options: Options) -> UpdateRule:
    if name == "adam":
        return AdamRule(adam_options("gsplat", horizon=2000))
    fast = {"active_only": False, "knn_refresh_interval": 100} if name == "learn2splat-fast" else {}
    weights = weights_of("learn2splat", name if name == "gain-mini" else options.weights)
    return rule_entry("learn2splat").build(RuleOptions(weights, fast)).to(options.device)


@dataclass
class Measurement:
    """The fastest step of one rule at one size."""

    rule: RuleName
    gaussians: int
    milliseconds: dict[str, float]
    megabytes: float
    network: nn.Module | None
    network_inputs: tuple[Tensor, ...] | None
    """What the network was given in the last step."""


def measure(name: RuleName, size: int, capture: ProceduralCapture, options: Options) -> Measurement:
    """Train for some steps and time each phase."""
    watch, memory = Stopwatch(options.device), PeakMemory(options.device)
    cameras, photos = capture.views.cameras.to(options.device), capture.views.images.to(options.device)
    start = gaussians_from_points(capture.points.xyz, capture.points.rgb, PointInitOptions(num_points=size))
    parameters = {field: Parameter(value) for field, value in start.to(options.device).items()}
    rule = build_rule(name, options)
    optimizer = JointOptimizer(parameters, rule)
    optimizer.bind(SceneKnowledge(cameras.centres))
    last_inputs: list[tuple[Tensor, ...]] = []
    network = rule.network if isinstance(rule, ProposingRule) else None
    room = gain if isinstance(rule, GainRule) else learn2splat
    search = room.nearest_neighbours
    if network is not None:
        network.register_forward_pre_hook(lambda _, inputs: last_inputs.append(inputs))
        network.forward = watch.timed("network", network.forward)
        room.nearest_neighbours = watch.timed("neighbours", search)
    settings = RasterSettings()
    laps = []
    memory.reset()
    for _ in range(1 + options.steps):
        last_inputs.clear()
        with watch.phase("render"):
            rendered = render(Gaussians.from_mapping(parameters), cameras, settings).rgb
        with watch.phase("loss"):
            loss = photometric_loss(rendered, photos)
        with watch.phase("backward"):
            loss.backward()
        with watch.phase("step"):
            optimizer.step()
        optimizer.zero_grad()
        lap = watch.read()
        lap["apply"] = lap.pop("step") - lap["neighbours"] - lap["network"]
        laps.append(lap)
    room.nearest_neighbours = search
    fastest = min(laps[1:], key=lambda lap: sum(lap.values()))
    return Measurement(name, len(start), fastest, memory.megabytes(), network, last_inputs[-1] if last_inputs else None)


def update_row(name: RuleName, size: int, capture: ProceduralCapture, options: Options) -> list[str]:
    """Milliseconds of an update alone: the fastest of each kind of work, without neighbour searches."""
    watch = Stopwatch(options.device)
    start = gaussians_from_points(capture.points.xyz, capture.points.rgb, PointInitOptions(num_points=size))
    parameters = {field: Parameter(value) for field, value in start.to(options.device).items()}
    optimizer = JointOptimizer(parameters, build_rule(name, options))
    optimizer.bind(SceneKnowledge(capture.views.cameras.centres.to(options.device)))
    fastest: dict[str, float] = {}
    for step in range(UPDATES):
        for parameter in parameters.values():
            parameter.grad = 1e-3 * torch.randn_like(parameter)
        work = optimizer.rule.work_at(optimizer.inner_step)
        with watch.phase("update"):
            optimizer.step()
        milliseconds = watch.read()["update"]
        if step > 0:
            fastest[work] = min(milliseconds, fastest.get(work, math.inf))
    return [f"{len(start):,}", name, ", ".join(f"{work} {value:.2f}".strip() for work, value in fastest.items())]


@torch.no_grad()
def network_row(measurement: Measurement) -> list[str]:
    """Shares of the network's time (on one thread), and its distance from the multiply-adds alone (on all); CPU."""
    network, inputs = measurement.network, measurement.network_inputs
    rows = len(inputs[0])
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    multiply_adds = rows * sum(module.weight.numel() for module in linears)
    square = torch.randn(MATRIX_SIDE, MATRIX_SIDE)
    watch = Stopwatch("cpu")
    products = math.ceil(multiply_adds / MATRIX_SIDE**3)
    rounds = []
    for _ in range(5):  # In turns and of the same length, so that other programs on the machine slow down both alike.
        with watch.phase("products"):
            for _ in range(products):
                square @ square
        with watch.phase("network"):
            network(*inputs)
        rounds.append(watch.read())
    fastest = min(lap["network"] for lap in rounds)
    pure = [lap["products"] * multiply_adds / (products * MATRIX_SIDE**3) for lap in rounds]
    ratio = statistics.median(lap["network"] / alone for lap, alone in zip(rounds, pure, strict=True))

    gather = NeighbourAttention.gather
    for module in linears:
        module.forward = watch.timed("matrix products", module.forward)
    for module in norms:
        module.forward = watch.timed("normalisation", module.forward)
    for block in next(module for module in network.modules() if isinstance(module, PointTransformer)).blocks:
        block.attn.proj.forward = watch.timed("projection", block.attn.proj.forward)
    NeighbourAttention.gather = watch.timed("attention", gather)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with watch.phase("network"):
        network(*inputs)
    torch.set_num_threads(num_threads)
    parts = watch.read()
    NeighbourAttention.gather = gather
    parts["attention"] -= parts["projection"]
    shares = [parts[part] / parts["network"] for part in PARTS]
    # A network whose layers run in one kernel has no parts to be timed.
    cells = [f"{share:.0%}" for share in [*shares, 1 - sum(shares)]] if any(shares) else ["-"] * (len(PARTS) + 1)
    return [
        *(f"{rows:,}", f"{fastest:.0f}", f"{1e3 * fastest / rows:.0f}"),
        *cells,
        *(f"{multiply_adds / min(pure) / 1e6:.0f}", f"{ratio:.2f}"),
    ]


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(options: Options) -> None:
    height, width = options.image_size
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} cores"
    print(f"`python {shlex.join(sys.argv)}`, l2o_splat {__version__}, torch {torch.__version__}, ", end="")
    print(f"{machine}, {torch.get_num_threads()} threads, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    print(f"{options.views} views of {height} x {width}; fastest of {options.steps} steps, milliseconds\n", flush=True)
    capture = generate(
        options.seed,
        ProceduralOptions(num_views=options.views, width=width, height=height, num_points=max(options.sizes)),
        threads=torch.get_num_threads(),
    )
    steps, updates, networks = [], [], []
    for size in options.sizes:
        baseline = None
        for rule in options.rules:
            found = measure(rule, size, capture, options)
            total = sum(found.milliseconds.values())
            baseline = total if rule == "adam" else baseline
            cells = [f"{found.milliseconds[phase]:.1f}" for phase in PHASES]
            ratio = f"{total / baseline:.2f}" if baseline else "-"
            steps.append([f"{found.gaussians:,}", rule, *cells, f"{total:.1f}", ratio, f"{found.megabytes:,.0f}"])
            if found.network_inputs and options.device == "cpu":
                networks.append([rule, *network_row(found)])
            updates.append(update_row(rule, size, capture, options))
            print(f"{rule} at {size} measured", file=sys.stderr)
    print(table(["Gaussians", "rule", *PHASES, "step", "x Adam", "peak MB"], steps))
    print("\n" + table(["Gaussians", "rule", "update alone"], updates))
    if networks:
        header = ["rule", "active Gaussians", "network ms", "µs per Gaussian", *PARTS, "rest"]
        print("\n" + table([*header, "G multiply-adds/s", "x pure multiply-adds"], networks))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
