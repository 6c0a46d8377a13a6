"""Photographs of a capture of any size: as many in memory as fit, the others in a scratch file.

A scratch file holds decoded and undistorted pixels, so that a photograph comes back bit for bit, in a fraction of the
time that decoding takes (docs/gpu.md). What stays in memory stays for the whole run: views come again only after all
others, so that keeping the latest instead would keep what is needed last.
"""

from __future__ import annotations

import mmap
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.photograph_memory import OPTION, PhotographMemory, scratch_folder

READERS = 2
"""Threads that read ahead."""


def size_in_bytes(data: dict) -> int:
    """Bytes of the image and the mask of a photograph in nerfstudio's form."""
    return sum(data[name].nbytes for name in ("image", "mask") if name in data)


class PhotographStore(Sequence[dict]):
    """Photographs in nerfstudio's form, each put once and read as often as wanted, from any thread.

    Args:
        count: Photographs.
        memory: Where they are kept, and how many bytes of them.
    """

    def __init__(self, count: int, memory: PhotographMemory) -> None:
        self.memory = memory
        self._entries: list[dict | _OnDisk | None] = [None] * count
        self._scratch = ScratchFile()
        self._ahead = ReadAhead(self.read)

    def put(self, index: int, data: dict) -> None:
        """Store a photograph.

        Raises:
            CaptureError: If it goes to the disk, which is full.
        """
        fits = self.memory.full_size.take(size_in_bytes(data))
        place = self.memory.put if fits else self._scratch.write
        placed = {name: place(data[name]) for name in ("image", "mask") if name in data}
        self._entries[index] = (data | placed) if fits else _OnDisk(data | placed)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict:
        entry = self._entries[index]
        return self._ahead.get(index % len(self)) if isinstance(entry, _OnDisk) else entry

    def is_on_disk(self, index: int) -> bool:
        """Whether a photograph is read again each time."""
        return isinstance(self._entries[index], _OnDisk)

    def read(self, index: int) -> dict:
        """A photograph, whatever was read ahead."""
        entry = self._entries[index]
        if not isinstance(entry, _OnDisk):
            return entry
        return {
            name: self._scratch.read(value, self.memory.pinned) if isinstance(value, Stored) else value
            for name, value in entry.data.items()
        }

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Begin to read what will be asked for next, and forget what was read ahead before."""
        self._ahead.start([index for index in indices if self.is_on_disk(index)])


@dataclass(frozen=True)
class _OnDisk:
    data: dict
    """The photograph with :class:`Stored` in the place of tensors."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a scratch file."""

    offset: int
    """Bytes."""
    shape: torch.Size
    dtype: torch.dtype


class ScratchFile:
    """Tensors in a file without a name, which is gone when the process ends, in whatever way it ends."""

    def __init__(self) -> None:
        self._file = None
        self._end = 0
        self._lock = threading.Lock()

    def write(self, tensor: Tensor) -> Stored:
        """Append a tensor.

        Raises:
            CaptureError: If the disk is full or cannot be written to.
        """
        with self._lock:
            stored = Stored(self._end, tensor.shape, tensor.dtype)
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(dir=scratch_folder())  # noqa: SIM115 - lives as long as this
                self._file.seek(stored.offset)
                self._file.write(_bytes_of(tensor.contiguous()))
                self._file.flush()
            except OSError as error:
                raise CaptureError(
                    f"A photograph that does not fit in memory could not be written to {scratch_folder()} ({error}); "
                    f"name a folder with more space in TMPDIR, or allow more memory with {OPTION}."
                ) from error
            self._end += tensor.nbytes
        return stored

    def read(self, stored: Stored, pinned: bool) -> Tensor:
        """A tensor as it was written.

        Args:
            stored: What writing it returned.
            pinned: Whether to read into memory from which a card copies faster.

        Raises:
            CaptureError: If the file has become shorter.
        """
        tensor = _empty(stored, pinned)
        with self._lock:
            self._file.seek(stored.offset)
            if self._file.readinto(_bytes_of(tensor)) != tensor.nbytes:
                raise CaptureError(f"The scratch file in {scratch_folder()} was cut by another program; train again.")
        return tensor


def _empty(stored: Stored, pinned: bool) -> Tensor:
    if pinned:
        return torch.empty(stored.shape, dtype=stored.dtype, pin_memory=True)
    # Mapped, so that it goes back to the system at once: malloc keeps what threads hand to each other in pieces.
    memory = mmap.mmap(-1, stored.shape.numel() * stored.dtype.itemsize)
    return torch.frombuffer(memory, dtype=stored.dtype).reshape(stored.shape)


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.flatten().view(torch.uint8).numpy())


class ReadAhead:
    """Photographs that are read, or made, in the background before they are asked for.

    Args:
        read: Returns one; called from several threads.
    """

    def __init__(self, read: Callable[[int], dict]) -> None:
        self._read = read
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[int, Future[dict]] = {}

    def start(self, indices: Sequence[int]) -> None:
        """Begin with these, and forget all others."""
        if indices and self._pool is None:
            self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="l2o-photographs")
        before, self._pending = self._pending, {}
        for index in indices:
            self._pending[index] = before.pop(index, None) or self._pool.submit(self._read, index)
        for future in before.values():
            future.cancel()

    def get(self, index: int) -> dict:
        """The photograph that was read ahead, else one that is read now."""
        pending = self._pending.get(index)
        return self._read(index) if pending is None else pending.result()
