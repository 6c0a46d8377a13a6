"""``l2o prove``: prove or refute every claim about CUDA on this machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from l2o_splat.prove.part import Part, Setting
    from l2o_splat.prove.records import Record

PROVEN, REFUTED, NOT_RUN, NOT_DECIDED = 0, 1, 3, 4
"""Exit statuses: every claim of the parts that ran is proven; one is refuted; nothing ran; one was not decided."""


@dataclass
class Prove:
    """Prove or refute every claim about CUDA on this machine, in parts of at most ten minutes.

    Writes report.html and report.json, good to attach to a bug report. The same command goes on where it stopped: parts
    whose claims are decided for these sources, versions and this card are kept. Exit status: 0 if every claim of the
    parts that ran is proven, 1 if one is refuted, 3 if nothing ran (there is no CUDA device), 4 if one was not decided.
    """

    out: Path = Path("l2o-prove")
    """Folder for the report, and for what a later run goes on from."""
    garden: Path | None = None
    """Folder of Mip-NeRF 360 garden (images/ and sparse/0): replays the published curve of Learn2Splat."""
    data: Path | None = None
    """Folder of a capture to train on instead of the built-in one."""
    against: Literal["splatfacto"] | None = None
    """Draw held-out PSNR over 120 seconds, ours and this method of nerfstudio."""
    golden: Path | None = None
    """Folder of fixtures (learn2splat_*.pt, resplat_*.pt) with numbers of the original programs, to replay."""
    only: tuple[str, ...] = ()
    """Run these parts alone; --list names them."""
    again: tuple[str, ...] = ()
    """Run these parts although they are decided."""
    list: bool = False
    """Print the parts, what each decides and how long it takes, and run nothing."""
    rehearse: bool = False
    """Run every part on the CPU in a tiny size, to see that the parts work; says nothing about CUDA."""

    def run(self) -> int:
        """Run what can be run and write the report; return the exit status.

        Raises:
            ProveError: If a part has no such name, or a folder does not exist.
        """
        from l2o_splat.prove.part import Setting
        from l2o_splat.prove.parts import PARTS

        parts = self._chosen(PARTS)
        self._check_folders()
        paths = {name: _absolute(getattr(self, name)) for name in ("out", "garden", "data", "golden")}
        setting = Setting(**paths, device="cpu" if self.rehearse else "cuda", against=self.against)
        if self.list:
            print(described(parts, setting))
            return PROVEN
        if not self.rehearse and not _cuda_is_here():
            print(described(parts, setting))
            print("\nNothing was run: there is no CUDA device. --rehearse runs every part in a tiny size on the CPU.")
            return NOT_RUN
        return self._prove(parts, setting)

    def _prove(self, parts: tuple[Part, ...], setting: Setting) -> int:
        from l2o_splat.environment import command
        from l2o_splat.prove.parts import PARTS
        from l2o_splat.prove.report import HTML_NAME, write_report
        from l2o_splat.prove.runner import alone_in, known_of, run_parts

        able = [part for part in parts if not part.missing(setting)]
        left_out = {part.name: "It was not chosen (--only)." for part in PARTS if part not in parts}
        left_out |= {part.name: f"It needs {part.missing(setting)}." for part in parts if part.missing(setting)}
        left_out |= {part.name: "It has not run yet." for part in able}
        # Of earlier calls, so that the report has everything that is known, whatever this one was to run.
        known = {part.name: record for part in PARTS if (record := known_of(part, setting)) is not None}
        found: list[Record] = []
        with alone_in(setting.out), _interruptible():
            write_report(PARTS, known, left_out, setting, command())
            for record in run_parts(able, setting, self.again, say=lambda line: print(line, flush=True)):
                found.append(record)
                known[record.part] = record
                write_report(PARTS, known, left_out, setting, command())
        print(f"Report: {setting.out / HTML_NAME}")
        status = status_of(found, setting.rehearsal)
        return NOT_DECIDED if status == PROVEN and len(found) < len(able) else status

    def _chosen(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        from l2o_splat.prove.errors import ProveError

        known = [part.name for part in parts]
        for option, names in (("--only", self.only), ("--again", self.again)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ProveError(f"{option} {unknown[0]}: there is no such part; choose from {', '.join(known)}.")
            if option == "--again" and self.only and not set(names) <= set(self.only):
                raise ProveError(
                    f"--again {' '.join(names)} is more than --only {' '.join(self.only)}; name it in both."
                )
        return tuple(part for part in parts if not self.only or part.name in self.only)

    def _check_folders(self) -> None:
        from l2o_splat.prove.errors import ProveError
        from l2o_splat.scenes.capture_names import find_capture

        for name in ("garden", "data", "golden"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise ProveError(f"--{name} {folder} is no folder.")
            if folder is not None and name != "golden":
                find_capture(str(folder))  # Says what is wrong with it before anything is measured.


def described(parts: Collection[Part], setting: Setting) -> str:
    """The parts as text: what each decides, how long it takes, and what is missing for it."""
    lines = []
    for part in parts:
        missing = part.missing(setting)
        needs = f"; needs {missing}" if missing else ""
        lines.append(f"{part.name} (about {part.minutes:g} min, {part.limit / 60:g} at most{needs})")
        lines.append(f"    {part.decides}")
        lines += [f"    - {claim}" for claim in part.claims]
    total = sum(part.minutes for part in parts if not part.missing(setting))
    lines.append(f"About {total:.0f} minutes on a machine with a card.")
    return "\n".join(lines)


def status_of(records: Collection[Record], rehearsal: bool) -> int:
    """The exit status for some records; a rehearsal is well if every part came to its end."""
    if not records:
        return NOT_RUN
    if rehearsal:
        return NOT_DECIDED if any(record.status in ("failed", "out of time") for record in records) else PROVEN
    verdicts = {judgement.verdict for record in records for judgement in record.judgements}
    if "refuted" in verdicts:
        return REFUTED
    if "not decided" in verdicts:
        return NOT_DECIDED
    return PROVEN


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the part that runs, and nothing is lost of the others."""
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.")


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()


def _cuda_is_here() -> bool:
    import torch

    return torch.cuda.is_available()
