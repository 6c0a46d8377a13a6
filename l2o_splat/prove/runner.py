"""All parts one after the other, each in a process of its own with a time limit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from l2o_splat.files import held_folder
from l2o_splat.prove.checkout import last_line
from l2o_splat.prove.errors import ProveError
from l2o_splat.prove.part import Part, Setting
from l2o_splat.prove.records import (
    PARTS_NAME,
    Record,
    judgements_of,
    key_of,
    nothing_decided,
    read_record,
    rehearsed,
    state_of_machine,
)
from l2o_splat.system import kill_with_children

CHILD = (sys.executable, "-W", "ignore", "-m", "l2o_splat.prove.child")
"""Command that measures a part; its arguments are the part, the setting and the file for the answer."""

LOG_LINES = 60
"""Lines of a part's output that the report shows."""


def alone_in(out: Path) -> AbstractContextManager[None]:
    """Hold the folder of a report, so that no second run writes to it.

    Raises:
        ProveError: If another run holds it.
    """
    refusal = f"Another `l2o prove` is writing to {out}; wait for it, or use another --out."
    return held_folder(out, ProveError(refusal))


def run_parts(
    parts: Sequence[Part],
    setting: Setting,
    again: Collection[str] = (),
    say: Callable[[str], None] = print,
    command: Sequence[str] = CHILD,
) -> Iterator[Record]:
    """Run every part whose claims are not decided yet; one that fails or takes too long stops no other.

    Args:
        parts: Parts that this machine can run.
        setting: What they are told.
        again: Names of parts that run although they are decided.
        say: Shows a line of progress.
        command: Program that measures a part.

    Yields:
        The record of each part, those that were kept included.
    """
    folder = setting.out / PARTS_NAME
    folder.mkdir(parents=True, exist_ok=True)
    setting = replace(setting, state=state_of_machine())
    run: set[str] = set()
    for part in parts:
        kept = known_of(part, setting)
        if kept is not None and kept.decided and part.name not in again and run.isdisjoint(part.after):
            say(f"{part.name}: decided on {kept.date}, kept")
            yield kept
            continue
        if part.name in again:
            shutil.rmtree(setting.work(part.name), ignore_errors=True)
        run.add(part.name)
        say(f"{part.name}: about {part.minutes:g} minutes, {part.limit / 60:g} at most")
        record = run_part(part, setting, folder, command)
        record.write(folder)
        for judgement in record.judgements:
            say(f"  {judgement.verdict}: {judgement.claim}: {judgement.found}")
        yield record


def known_of(part: Part, setting: Setting) -> Record | None:
    """What an earlier run has found out of a part, with the same sources, versions, machine and options."""
    return read_record(setting.out / PARTS_NAME, part, key_of(part, setting))


def run_part(part: Part, setting: Setting, folder: Path, command: Sequence[str] = CHILD) -> Record:
    """Measure one part in a process of its own and judge it."""
    told, answer, log = (folder / f"{part.name}.{kind}" for kind in ("setting.json", "answer.json", "log"))
    answer.unlink(missing_ok=True)
    setting.write(told)
    begin = time.monotonic()
    code = _run([*command, part.name, str(told), str(answer)], log, part.limit)
    seconds = time.monotonic() - begin
    text = log.read_text(errors="replace")
    status, reason, numbers = "measured", "", {}
    if answer.exists():
        found = json.loads(answer.read_text())
        if "undecided" in found:
            status, reason = "undecided", found["undecided"]
        else:
            numbers = found["numbers"]
    elif code is None:
        status = "out of time"
        reason = f"It was stopped after {part.limit:g} seconds; the same command tries it again."
    else:
        status, reason = "failed", _last_words(code, text)
    judgements = judgements_of(part, numbers) if status == "measured" else nothing_decided(part, reason)
    if setting.rehearsal and status == "measured":
        judgements = rehearsed(judgements)
    tail = "\n".join(text.splitlines()[-LOG_LINES:])
    date = time.strftime("%Y-%m-%d %H:%M %Z")
    told.unlink()
    answer.unlink(missing_ok=True)
    return Record(part.name, key_of(part, setting), status, reason, seconds, date, judgements, numbers, tail)


def _run(words: Sequence[str], log: Path, limit: float) -> int | None:
    """Exit status of a process; None if it was stopped at the limit, with everything that it had started."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            kill_with_children(process)


def _last_words(code: int, text: str) -> str:
    if code < 0:
        return f"The process was killed by {signal.Signals(-code).name}."
    return f"The process ended with status {code}: {last_line(text)}"
