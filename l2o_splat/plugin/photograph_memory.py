"""How much memory photographs may take, on the host and on the card, and what a capture makes of it."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from l2o_splat.losses import views_at_once
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.errors import OptionError
from l2o_splat.system import available_memory, total_memory

OPTION = "--pipeline.datamanager.cache-gib"
MOST_ON_HOST = 5 * 2**30
"""Bytes of host memory that photographs take unless the option says otherwise; with what is read ahead and decoded,
2,000 photographs of 12 megapixels stay below 8 GB."""
SHARE_OF_HOST = 0.5
"""Share of the available host memory that they take at most."""
MOST_ON_CARD = 4 * 2**30
"""Bytes on the card; photographs that take more are kept on the host."""
SHARE_OF_CARD = 0.25
"""Share of the free memory of the card that they take at most."""
FULL_SIZE = 2 / 3
"""Share of the budget for photographs at full size; the rest is for reduced ones."""
LOADERS = 2
"""Photographs that are decoded at a time, as nerfstudio does."""
COPIES_IN_DECODING = 3
"""Copies of a photograph while it is read: decoded, converted, undistorted."""


class MemoryBudget:
    """Bytes that several threads share.

    Args:
        limit: How many there are.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Take bytes if so many are left; return whether they were."""
        with self._lock:
            fits = self.used + count <= self.limit
            self.used += count * fits
        return fits

    def give_back(self, count: int) -> None:
        """Return bytes that were taken."""
        with self._lock:
            self.used -= count


@dataclass(frozen=True)
class PhotographMemory:
    """Where the photographs of a run are kept."""

    device: torch.device
    """That of all that are kept."""
    pinned: bool
    """Whether they lie on the host in memory from which a card copies faster."""
    limit: int
    """Bytes for photographs, reduced ones included."""
    full_size: MemoryBudget
    """The part of it for those of full size."""

    @classmethod
    def of(cls, total: int, device: torch.device | str, on_card: bool, cache_gib: float | None) -> PhotographMemory:
        """The memory of this machine for photographs that take ``total`` bytes at full size.

        Args:
            total: Bytes.
            device: Device of the run.
            on_card: Whether they may be kept on it.
            cache_gib: What the user allows on the host, GiB; None takes half of what is available and at most 5.
        """
        device = torch.device(device)
        if device.type != "cpu" and on_card and total <= (limit := _limit_on_card(device)):
            return cls(device, False, int(limit / FULL_SIZE), MemoryBudget(limit))
        limit = default_limit() if cache_gib is None else int(cache_gib * 2**30)
        return cls(torch.device("cpu"), device.type == "cuda", limit, MemoryBudget(int(limit * FULL_SIZE)))

    def reduced(self) -> MemoryBudget:
        """What photographs of full size have left."""
        return MemoryBudget(self.limit - self.full_size.used)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor where it is to be kept, alone in its memory."""
        tensor = tensor.contiguous().to(self.device)
        return tensor.pin_memory() if self.pinned else tensor


def default_limit() -> int:
    """Bytes of host memory for photographs."""
    return min(MOST_ON_HOST, int(SHARE_OF_HOST * _available_on_host()))


def check_cache_gib(cache_gib: float | None) -> None:
    """Refuse an amount of memory that is none.

    Raises:
        OptionError: If it is not above 0, or not finite.
    """
    if cache_gib is not None and not 0 < cache_gib < float("inf"):
        raise OptionError(f"{OPTION} is {cache_gib}; a number of GiB above 0 is needed, or leave it out.")


def scratch_folder() -> Path:
    """Where photographs go that do not fit: ``TMPDIR``, else ``/var/tmp``, since ``/tmp`` may be memory itself."""
    named, lasting = os.environ.get("TMPDIR"), Path("/var/tmp")
    return lasting if named is None and lasting.is_dir() else Path(tempfile.gettempdir())


def check_scratch(num_bytes: int) -> None:
    """Refuse a run whose photographs fit neither into memory nor onto the disk.

    Raises:
        CaptureError: If the disk of the scratch folder is too full.
    """
    folder = scratch_folder()
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise CaptureError(
            f"The photographs need {num_bytes / 1e9:.1f} GB of disk beside what fits in memory, and {folder} has "
            f"{free / 1e9:.1f} GB; name a folder with more in TMPDIR, allow more memory with {OPTION}, or use smaller "
            "photographs (--pipeline.datamanager.camera-res-scale-factor)."
        )


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that the photographs of a capture take while a scene is trained on them."""

    host: dict[str, int]
    """By what they are for."""
    card: dict[str, int]
    """The same on the card, where a run has one and the photographs do not fit on it; Gaussians are not counted."""
    scratch: int
    """On disk."""


def memory_plan(
    count: int, width: int, height: int, views_per_step: int, limit: int = MOST_ON_HOST, masks: bool = False
) -> MemoryPlan:
    """What photographs of one size take, 8-bit RGB, kept on the host.

    Args:
        count: Photographs, those held out included.
        width: Pixels.
        height: Pixels.
        views_per_step: Of the run.
        limit: Bytes for photographs on the host.
        masks: Whether they have masks.
    """
    pixels = width * height
    photograph = pixels * (3 + masks)
    fitting = min(count, int(limit * FULL_SIZE) // photograph)
    streamed = count - fitting
    step = min(views_per_step, count)
    host = {
        "kept at full size": fitting * photograph,
        "kept reduced, at most": limit - fitting * photograph,
        "of a step and the next": 2 * min(step, streamed) * photograph,
        "being decoded": LOADERS * COPIES_IN_DECODING * photograph,
    }
    # Each photograph is copied as it is stored, then made floats.
    card = {
        "images of a step": step * pixels * 3 * 4,
        "masks of a step": step * pixels * 4 * masks,
        "copy": photograph,
        "renders": step * pixels * 4 * 4,
        "loss": pixels * loss_bytes(step, min(step, views_at_once(height, width)), masks),
    }
    return MemoryPlan(host, card, streamed * photograph)


def loss_bytes(views: int, together: int, masks: bool) -> int:
    """Bytes a pixel that the torch loss takes at most, its gradient included.

    Args:
        views: Of a step.
        together: How many are compared at a time.
        masks: Whether they have masks.
    """
    return (72 + 32 * masks) * views + 112 * together


def _available_on_host() -> int:
    """Bytes that programs can still get."""
    available, total = available_memory(), total_memory()
    if available is not None:
        return available
    return MOST_ON_HOST if total is None else total // 2


def _limit_on_card(device: torch.device) -> int:
    if device.type != "cuda":
        return MOST_ON_CARD
    free, _ = torch.cuda.mem_get_info(device)
    return min(MOST_ON_CARD, int(SHARE_OF_CARD * free))
