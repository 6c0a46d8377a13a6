"""Objects full of tensors on their way from one process to another.

Through a pipe, megabytes cost more processor time than a capture takes to read: the receiver copies them several times,
64 kB by 64 kB. Where the system has shared memory, the numbers of a parcel lie in a file there, which is written once,
read once and gone before anyone keeps what was in it; only names and shapes go through the pipe. Without shared memory,
or when it is full, all of it does.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from l2o_splat.system import shared_memory

_ALIGNMENT = 64
"""Every tensor begins at a multiple of so many bytes."""


@dataclass(frozen=True)
class Parcel:
    """An object as plain bytes."""

    header: bytes
    """The object without the numbers of its tensors."""
    sizes: tuple[int, ...]
    """Bytes of each tensor."""
    content: bytes | Path
    """The numbers, or the file that they are in."""


def shared_folder() -> tempfile.TemporaryDirectory | None:
    """A new folder in shared memory, which is removed with this object; None if there is no such memory."""
    memory = shared_memory()
    if memory is None:
        return None
    with suppress(OSError):
        return tempfile.TemporaryDirectory(prefix="l2o-captures-", dir=memory, ignore_cleanup_errors=True)
    return None


def pack(value: Any, folder: Path | None) -> Parcel:
    """An object as a parcel; its numbers lie in a file in ``folder`` if it has space for them."""
    header, buffers = io.BytesIO(), []
    _Pickler(header, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [buffer.raw() for buffer in buffers]
    content = _padded(parts)
    if folder is not None:
        path = folder / os.urandom(8).hex()
        try:
            with path.open("wb") as file:
                file.writelines(content)
            return Parcel(header.getvalue(), tuple(part.nbytes for part in parts), path)
        except OSError:  # It is full, or gone because the receiver ends.
            with suppress(OSError):
                path.unlink()
    return Parcel(header.getvalue(), tuple(part.nbytes for part in parts), b"".join(content))


def unpack(parcel: Parcel) -> Any:
    """The object in a parcel, whose file is removed."""
    if isinstance(parcel.content, Path):
        content = bytearray(parcel.content.stat().st_size)
        with parcel.content.open("rb", buffering=0) as file:
            view, done = memoryview(content), 0
            while done < len(content):
                done += file.readinto(view[done:])
        parcel.content.unlink()
    else:
        content = bytearray(parcel.content)
    view, buffers, begin = memoryview(content), [], 0
    for size in parcel.sizes:
        buffers.append(view[begin : begin + size])
        begin += size + -size % _ALIGNMENT
    return pickle.loads(parcel.header, buffers=buffers)


def _padded(parts: list[memoryview]) -> list[memoryview | bytes]:
    return [piece for part in parts for piece in (part, bytes(-part.nbytes % _ALIGNMENT))]


class _Pickler(pickle.Pickler):
    """Takes tensors for arrays, whose numbers need not be copied into the bytes."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.from_numpy, (value.detach().contiguous().numpy(),)
        return NotImplemented
