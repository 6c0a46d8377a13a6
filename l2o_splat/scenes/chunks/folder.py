"""A folder of chunks with its index: the ``train`` or ``test`` part of a data set."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.file import read_chunk
from l2o_splat.scenes.chunks.scene import ChunkScene, scene_of_entry
from l2o_splat.scenes.chunks.view_index import read_json_object

INDEX = "index.json"


class ChunkFolder:
    """The scenes of a folder with ``index.json`` ({scene key: chunk file}) and chunks (``000000.torch``, ...).

    The chunks used last stay open, so scenes of one chunk are best asked for one after another. A pickled folder opens
    them again.

    Args:
        path: The folder.
        open_chunks: Number of chunks that stay open; at least 1.

    Raises:
        ChunkError: There is no ``index.json``, or it names no scene, or a chunk that is not there.
    """

    def __init__(self, path: Path, open_chunks: int = 2) -> None:
        self.path = Path(path)
        self._open_chunks = max(open_chunks, 1)
        self._open: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._chunk_of = self._read_index()

    @property
    def keys(self) -> tuple[str, ...]:
        """Scene keys, in the order of ``index.json``."""
        return tuple(self._chunk_of)

    @property
    def chunks(self) -> dict[str, tuple[str, ...]]:
        """The scene keys of every chunk, by its file name; both in the order of ``index.json``."""
        groups: dict[str, list[str]] = {}
        for key, chunk in self._chunk_of.items():
            groups.setdefault(chunk, []).append(key)
        return {chunk: tuple(keys) for chunk, keys in groups.items()}

    def scene(self, key: str) -> ChunkScene:
        """The scene of a key.

        Raises:
            ChunkError: There is no such scene, or its chunk or its cameras are damaged.
        """
        chunk = self._chunk_of.get(key)
        if chunk is None:
            raise ChunkError(f"{self.path / INDEX} names no scene {key}; give one of its {len(self._chunk_of)} scenes.")
        entry = self._entries(chunk).get(key)
        if entry is None:
            raise ChunkError(
                f"{self.path / INDEX} says that scene {key} is in {chunk}, which does not hold it; "
                "prepare or copy chunks and index together."
            )
        return scene_of_entry(entry, str(self.path / chunk))

    def _entries(self, chunk: str) -> dict[str, Any]:
        if chunk not in self._open:
            while len(self._open) >= self._open_chunks:
                self._open.popitem(last=False)
            self._open[chunk] = read_chunk(self.path / chunk)
        self._open.move_to_end(chunk)
        return self._open[chunk]

    def _read_index(self) -> dict[str, str]:
        parts = [part for part in ("train", "test") if (self.path / part / INDEX).is_file()]
        if parts and not (self.path / INDEX).exists():
            raise ChunkError(f"{self.path} has no {INDEX}, but its {' and '.join(parts)} have; name one of these.")
        index = read_json_object(self.path / INDEX, "the index of a folder of chunks: {scene: chunk file}")
        wrong = next((key for key, chunk in index.items() if not isinstance(chunk, str)), None)
        if wrong is not None or not index:
            found = f"no file name for scene {wrong}" if index else "no scene"
            raise ChunkError(f"{self.path / INDEX} names {found}; {{scene: chunk file}} is needed: prepare it again.")
        missing = [chunk for chunk in dict.fromkeys(index.values()) if not (self.path / chunk).is_file()]
        if missing:
            raise ChunkError(
                f"{self.path / INDEX} names {missing[0]}{f' and {len(missing) - 1} more chunks' * (len(missing) > 1)}, "
                "not there; copy what is missing, or take its scenes out of the index."
            )
        return index

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}
