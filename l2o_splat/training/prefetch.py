"""Captures made ahead of time by worker processes, in the order of their indices."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import DataLoader, Dataset

from l2o_splat.errors import L2OError
from l2o_splat.scenes.capture import Capture
from l2o_splat.training.parcels import Parcel, pack, shared_folder, unpack
from l2o_splat.training.sources import Source


class SourceError(L2OError, RuntimeError):
    """A source cannot make a capture; the message names its index, the cause is the source's own error."""


class Prefetched(Iterator[Capture]):
    """Captures in order; as a context manager it ends its workers."""

    waited_seconds: float
    """Time spent waiting for captures so far; a trainer that spends much of its own time waiting is data-bound."""

    def __init__(self, captures: Iterator[Capture], folder: TemporaryDirectory | None = None) -> None:
        self._captures, self._folder = captures, folder
        self.waited_seconds = 0.0

    def __next__(self) -> Capture:
        begin = time.perf_counter()
        try:
            return next(self._captures)
        finally:
            self.waited_seconds += time.perf_counter() - begin

    def close(self) -> None:
        """End the workers, if there are any; no captures follow."""
        self._captures = iter(())  # The loader ends its workers when it is garbage-collected.
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetched(source: Source, indices: Iterable[int], num_workers: int = 0) -> Prefetched:
    """The captures of ``indices``, in this order and the same for any number of workers.

    Args:
        source: Source of the captures; picklable if there are workers, each of which has a copy.
        indices: Indices in the source; possibly endless.
        num_workers: Processes of one thread each, which make two captures ahead each. 0 makes each capture in this
            process, when it is asked for.

    Raises:
        ValueError: If ``num_workers`` is negative.
        SourceError: While iterating, when the source raises an exception.
    """
    if num_workers < 0:
        raise ValueError(f"{num_workers} workers were asked for; 0 (none) or more are needed.")
    if num_workers == 0:
        return Prefetched(_make(source, index) for index in indices)
    source.prepare()
    folder = shared_folder()
    loader = DataLoader(
        _PackedCaptures(source, None if folder is None else Path(folder.name)),
        batch_size=None,
        sampler=indices,
        num_workers=num_workers,
        # A fork would copy locks that threads of the renderer or of CUDA hold, and deadlock.
        multiprocessing_context="spawn",
        worker_init_fn=partial(_end_with_parent, None if folder is None else folder.name),
        generator=torch.Generator(),  # Otherwise it would draw from the caller's random numbers.
    )
    return Prefetched(map(_unpacked, iter(loader)), folder)


@dataclass(frozen=True)
class _Failure:
    """Sent by a worker instead of a capture that its source could not make."""

    message: str
    traceback: str


class _PackedCaptures(Dataset):
    """The data set of the workers.

    Source and captures travel as parcels. torch would share tensors instead, each through an open file in ``/dev/shm``
    that lives as long as the tensor: a trainer that keeps captures would run out of files or of space.
    """

    def __init__(self, source: Source, folder: Path | None) -> None:
        self._pickled_source, self._folder = pickle.dumps(source), folder

    @cached_property
    def _source(self) -> Source:
        return pickle.loads(self._pickled_source)

    def __getitem__(self, index: int) -> Parcel:
        try:
            result = self._source.capture(index)
        except Exception as error:  # Whatever a source raises must reach the other process.
            result = _Failure(_message(index, error), traceback.format_exc())
        return pack(result, self._folder)


def _make(source: Source, index: int) -> Capture:
    try:
        return source.capture(index)
    except Exception as error:  # Whatever a source raises, the message must name the index.
        raise SourceError(_message(index, error)) from error


def _unpacked(parcel: Parcel) -> Capture:
    result = unpack(parcel)
    if isinstance(result, _Failure):
        raise SourceError(result.message) from RuntimeError(f"in a worker process\n{result.traceback}")
    return result


def _message(index: int, error: Exception) -> str:
    return f"The source cannot make capture {index} ({type(error).__name__}: {error})."


def _end_with_parent(folder: str | None, worker: int) -> None:
    """End this worker at once when its parent has ended in any way."""

    # torch ends the worker's loop too, but then the worker waits until somebody takes its last capture.
    def wait() -> None:
        multiprocessing.parent_process().join()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
