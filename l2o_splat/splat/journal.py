"""What ``l2o splat`` has done so far, as ``splat.json`` in the folder of its results, so that it can go on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from l2o_splat.files import write_text_whole
from l2o_splat.splat.errors import SplatError

JOURNAL_NAME = "splat.json"


@dataclass
class Journal:
    """The parts that are done, and what they found; plain data."""

    photos: str
    """Absolute path of the photographs, or the name of a built-in capture."""
    method: str
    """Method of the training, as ``ns-train`` knows it."""
    posed: dict[str, Any] | None = None
    """Fields of :class:`l2o_splat.scenes.photos.PosedCapture`; None if no poses were looked for (yet)."""
    runs: list[str] = field(default_factory=list)
    """Names of the training runs, each of which goes on from the one before."""
    trained_seconds: float = 0.0
    """Time budget of the run that has finished, seconds; 0 if none has."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Training over time: ``seconds`` of the budget, ``psnr_held_out`` and ``num_gaussians``."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds that each part has taken, all calls together."""

    def save(self, out: Path) -> None:
        """Write it into the folder of the results."""
        write_text_whole(out / JOURNAL_NAME, json.dumps(asdict(self), indent=1) + "\n")

    def took(self, part: str, seconds: float) -> None:
        """Add to the time of a part."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def open_journal(out: Path, photos: str, method: str) -> Journal:
    """The journal of a folder, or a new one if the folder is new or empty.

    Raises:
        SplatError: If the folder holds anything else, or the results of other photographs or another method.
    """
    path = out / JOURNAL_NAME
    if not path.exists():
        found = [entry.name for entry in out.iterdir() if entry.name != ".lock"] if out.exists() else []
        if found:
            raise SplatError(
                f"{out} holds {found[0]} and no {JOURNAL_NAME}; give --out a new or empty folder, or one that "
                "`l2o splat` has made."
            )
        return Journal(photos, method)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        journal = Journal(**{entry.name: values[entry.name] for entry in fields(Journal)})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SplatError(f"{path} cannot be read ({error!r}); give --out a new folder.") from error
    for name, given, held in (("photographs", photos, journal.photos), ("method", method, journal.method)):
        if given != held:
            raise SplatError(f"{out} holds results of the {name} {held}, not {given}; give --out a new folder.")
    return journal
