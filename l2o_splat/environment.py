"""The environment that numbers were measured in, or weights trained in: versions, commit, machine, command."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

from l2o_splat.system import processor, total_memory, usable_cores

PACKAGES = ("l2o_splat", "torch", "nerfstudio", "gsplat", "numba", "numpy", "lpips", "torchmetrics")


def environment() -> dict[str, str]:
    """Return name and value of everything that a reader needs to repeat the numbers, in the order to show them."""
    memory = total_memory()
    return {
        "command": command(),
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "commit": commit(),
        "machine": machine(),
        "cores": str(usable_cores()),
        "memory": "unknown" if memory is None else f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def command() -> str:
    """Return the command line of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def commit() -> str:
    """Return the commit of the sources, marked if they have changes; ``none`` for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "none"
    try:
        git = ["git", "-C", str(root)]
        sha = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return sha.stdout.strip() + (" with changes" if changes.stdout.strip() else "")


def machine() -> str:
    """Return the name of the GPU; without a GPU, the processor and the number of threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    name = processor() or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
