"""Evaluation indices: files that fix the context and target views of every scene."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2o_splat.files import write_text_whole
from l2o_splat.scenes.chunks.errors import ChunkError


@dataclass(frozen=True)
class ViewIndex:
    """Frames of one scene, in the order in which they are used."""

    context: tuple[int, ...]
    """Frames that a model or an optimizer sees."""
    target: tuple[int, ...]
    """Frames that are only compared with."""


def read_view_index(path: Path) -> dict[str, ViewIndex | None]:
    """Read an evaluation index: pixelSplat's ``evaluation_index_re10k.json``, or those of DepthSplat and ReSplat.

    The file is a JSON object from scene keys to ``{"context": [..], "target": [..]}``, frame numbers from 0, or to
    null for a scene that the protocol leaves out. What else an entry holds (pixelSplat adds an overlap) is not read.

    Args:
        path: The JSON file.

    Returns:
        The views of every scene in the order of the file; None for those left out.

    Raises:
        ChunkError: The file is not there, or is no such index.
    """
    content = read_json_object(path, "an evaluation index: {scene: {context: [..], target: [..]}}")
    return {key: None if entry is None else _entry(entry, key, path) for key, entry in content.items()}


def write_view_index(path: Path, index: Mapping[str, ViewIndex | None]) -> None:
    """Write an evaluation index that :func:`read_view_index` reads; the file appears whole or not at all."""
    content = {
        key: None if views is None else {"context": list(views.context), "target": list(views.target)}
        for key, views in index.items()
    }
    write_text_whole(path, json.dumps(content, indent=1) + "\n")


def read_json_object(path: Path, wanted: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ChunkError: The file is not there, or holds something else; the message says that ``wanted`` is needed.
    """
    if not path.is_file():
        raise ChunkError(f"There is no file {path}; it must be {wanted}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChunkError(f"{path} cannot be read as JSON ({error}); it must be {wanted}: get it again.") from error
    if not isinstance(content, dict):
        raise ChunkError(f"{path} holds a JSON {type(content).__name__}, not an object; it must be {wanted}.")
    return content


def _entry(entry: Any, key: str, path: Path) -> ViewIndex:
    frames = {}
    for name in ("context", "target"):
        numbers = entry.get(name) if isinstance(entry, dict) else None
        if not isinstance(numbers, list) or not numbers or not all(map(_is_frame, numbers)):
            raise ChunkError(
                f"The entry of scene {key} in {path} has no list of frame numbers named {name!r}; "
                '{"context": [..], "target": [..]} or null is needed.'
            )
        if len(set(numbers)) < len(numbers):
            raise ChunkError(f"The entry of scene {key} in {path} names a frame twice in {name!r}; take one out.")
        frames[name] = tuple(numbers)
    return ViewIndex(**frames)


def _is_frame(number: Any) -> bool:
    return type(number) is int and number >= 0
