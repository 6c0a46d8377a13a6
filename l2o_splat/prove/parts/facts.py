"""Driver, card and versions; and whether torch can compute on the card at all."""

from __future__ import annotations

import shutil
import subprocess

from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged

CLAIM = "torch computes on the card what it computes on the processor"
TOLERANCE = 1e-5
"""Of a product of two matrices in float32, relative to the largest number in it."""
SIDE = 512


def measure(setting: Setting) -> Numbers:
    """Facts by name, and the error of a product of matrices."""
    import torch

    from l2o_splat.environment import environment

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    expected = left.double() @ right.double()
    found = (left.to(setting.device) @ right.to(setting.device)).cpu().double()
    facts = environment() | {"cuda of torch": str(torch.version.cuda), "nvcc": _said("nvcc", "--version")}
    if setting.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "card": card.name,
            "compute capability": f"{card.major}.{card.minor}",
            "memory of the card": f"{card.total_memory / 2**30:.1f} GiB",
            "cards": str(torch.cuda.device_count()),
        }
    return {"facts": facts, "error": float((found - expected).abs().max() / expected.abs().max())}


def _said(program: str, *words: str) -> str:
    """The last line that a program prints; why there is none."""
    if shutil.which(program) is None:
        return f"no {program} on the PATH"
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} does not answer ({type(error).__name__})"
    return (done.stdout.strip().splitlines() or [f"{program} ended with status {done.returncode}"])[-1]


def judge(numbers: Numbers) -> list[Judgement]:
    error = numbers["error"]
    return [judged(CLAIM, error <= TOLERANCE, f"error {error:.1e}, at most {TOLERANCE:g}")]


FACTS = Part("facts", "Driver, card and versions; whether torch works on the card.", (CLAIM,), 0.2, measure, judge)
