"""One chunk: a file of torch that holds a list of scenes."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from l2o_splat.scenes.chunks.errors import ChunkError


def read_chunk(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a chunk by scene key. Images stay on disk until they are decoded, where the file allows it.

    Only tensors, text, numbers, lists and dicts are unpickled.

    Raises:
        ChunkError: The file is damaged, or holds something else than a list of scenes.
    """
    # The format of torch before 1.6 is no archive, and cannot be mapped into memory.
    archive = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        reason = "it holds other objects than tensors, text, numbers, lists and dicts"
        raise _unreadable(path, reason if archive else f"it is no file of torch, or {reason}") from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(path, "it is cut short or no file of torch") from error
    if not isinstance(content, list):
        raise ChunkError(f"{path} holds a {type(content).__name__}; a chunk is a list of scenes.")
    for number, entry in enumerate(content):
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            raise ChunkError(
                f"Entry {number} of the chunk {path} is no scene: a dict with a text 'key' is needed; prepare it again."
            )
    return {entry["key"]: entry for entry in content}


def _unreadable(path: Path, reason: str) -> ChunkError:
    return ChunkError(f"The chunk {path} cannot be read: {reason}; copy or prepare it again.")
