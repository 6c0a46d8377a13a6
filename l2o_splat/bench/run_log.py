"""The log of a run: JSON lines, only ever appended, so that a run killed at any moment can be resumed.

Records, by their ``kind``:

* ``start``: a process begins the run; records before it do not count. ``resume``: a process resumes after ``step``
  steps; records of later steps do not count.
* ``step``: a step with its times, ``seconds`` of its parts and ``other_seconds`` of the whole on the other clock.
* ``evaluation``: held-out quality, number of Gaussians and share of needles after ``step`` steps.
* ``end``: the run is over, with ``status`` and ``reason``. A run without it was interrupted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from l2o_splat.bench.clock import StepTime
from l2o_splat.errors import L2OError
from l2o_splat.system import lock

LOG_NAME = "log.jsonl"


class LogInUseError(L2OError, RuntimeError):
    """Another process is writing to the log."""


@dataclass
class LogContents:
    """The records of a log that count."""

    start: dict[str, Any] | None = None
    steps: list[StepTime] = field(default_factory=list)
    evaluations: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Records of evaluations by number of steps taken."""
    end: dict[str, Any] | None = None

    def rewind(self, step: int) -> None:
        """Forget the records after a step."""
        del self.steps[step:]
        self.evaluations = {taken: record for taken, record in self.evaluations.items() if taken <= step}
        self.end = None


def read_log(path: Path) -> LogContents:
    """Read a log; empty if there is none. A last line that was cut off is left out."""
    contents = LogContents()
    if not path.exists():
        return contents
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        kind = record.pop("kind")
        if kind == "start":
            contents = LogContents(start=record)
        elif kind == "resume":
            contents.rewind(record["step"])
        elif kind == "step":
            # A step that is taken again after a kill replaces the first one.
            del contents.steps[record["step"] - 1 :]
            contents.steps.append(StepTime(record["seconds"], record["first"], record["other_seconds"]))
        elif kind == "evaluation":
            contents.evaluations[record["step"]] = record
        else:
            contents.end = record
    return contents


class RunLog:
    """Writer of a log; no other process can write to the log while it is open.

    Raises:
        LogInUseError: If another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if not lock(self._file):
            os.close(self._file)
            raise LogInUseError(
                f"{path} is being written by another process; wait for the other `l2o bench`, or use another --out."
            )
        if os.fstat(self._file).st_size and _last_byte(self._file) != b"\n":
            os.write(self._file, b"\n")  # A kill cut the last line off; the next one must be whole.

    def write(self, kind: str, **values: Any) -> None:
        """Append a record. A power failure may lose steps; any other record is on the disk on return."""
        line = json.dumps({"kind": kind, **values}, allow_nan=False, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")
        if kind != "step":
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _last_byte(file: int) -> bytes:
    os.lseek(file, -1, os.SEEK_END)
    return os.read(file, 1)
