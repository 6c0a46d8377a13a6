"""What steps at several sizes take of the card's memory."""

from __future__ import annotations

from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged, undecided
from l2o_splat.prove.training_step import RULES, TrainingSteps, photographed

SIZES, VIEWS, WIDTH, HEIGHT = (20_000, 139_000, 500_000, 1_000_000), 8, 780, 520
TINY = ((100, 300), 2, 32, 24)
STEPS = 3
MOST_GIB = 16.0


def claim_of(rule: str) -> str:
    views = f"{VIEWS} views of {HEIGHT} x {WIDTH}"
    return f"A step of {rule} on {max(SIZES):,} Gaussians and {views} needs at most {MOST_GIB:g} GiB"


def measure(setting: Setting) -> Numbers:
    """MiB at the peak of some steps, by rule and size; None where the memory did not suffice."""
    import torch

    from l2o_splat.bench.memory import PeakMemory

    sizes, views, width, height = TINY if setting.rehearsal else (SIZES, VIEWS, WIDTH, HEIGHT)
    capture = photographed(views, width, height, max(sizes))
    found: Numbers = {"sizes": list(sizes), "card_mib": None}
    if setting.device == "cuda":
        found["card_mib"] = torch.cuda.get_device_properties(0).total_memory / 2**20
    for rule in RULES:
        peaks: list[float | None] = []
        for size in sizes:
            if setting.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            memory = PeakMemory(torch.device(setting.device))
            try:
                TrainingSteps(rule, size, capture, setting.device).milliseconds(STEPS)
                peaks.append(memory.mib)
            except torch.cuda.OutOfMemoryError:
                peaks.append(None)
        found[rule] = peaks
    return found


def judge(numbers: Numbers) -> list[Judgement]:
    return [_judge(rule, numbers) for rule in RULES]


def _judge(rule: str, numbers: Numbers) -> Judgement:
    claim, largest, card = claim_of(rule), numbers[rule][-1], numbers["card_mib"]
    by_size = ", ".join(
        f"{size:,}: {'too much for the card' if peak is None else f'{peak / 1024:.2f} GiB'}"
        for size, peak in zip(numbers["sizes"], numbers[rule], strict=True)
    )
    if largest is None and card is not None and card < 1024 * MOST_GIB:
        return undecided(claim, f"the card has only {card / 1024:.1f} GiB; {by_size}")
    return judged(claim, largest is not None and largest <= 1024 * MOST_GIB, by_size)


MEMORY = Part(
    "memory",
    "What a step takes of the card's memory at 20,000 to 1,000,000 Gaussians.",
    tuple(map(claim_of, RULES)),
    2,
    measure,
    judge,
)
