"""The parts of ``l2o splat`` one after the other: poses, training, results."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

from l2o_splat import __version__
from l2o_splat.files import held_folder
from l2o_splat.progress import RunProgress, read_progress
from l2o_splat.scenes.capture_names import CaptureSource, find_capture, is_capture
from l2o_splat.scenes.capture_quality import qualities
from l2o_splat.scenes.photo_folders import check_folders
from l2o_splat.splat.display import Display, spoken
from l2o_splat.splat.errors import SplatError
from l2o_splat.splat.expectation import SECONDS_OF_A_START, SECONDS_OF_RESULTS
from l2o_splat.splat.journal import Journal, open_journal
from l2o_splat.splat.posing import POSES, pose_with_display, poses_part
from l2o_splat.splat.training import Training, has_checkpoint, run_folder

TRAINING, RESULTS = "training", "results"
EXIT_OF_CTRL_C = 130
CAPTURE = "capture"
"""Folder of the posed photographs within that of the results."""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    photos: str
    """Folder of photographs, video file, capture with poses, or the name of a built-in capture."""
    out: Path
    """Folder of the results."""
    seconds: float
    """Time budget of the training."""
    method: str
    """As ``ns-train`` knows it."""
    formats: tuple[str, ...]
    """Files to write beside the page: ``ply``, ``spz``, ``sog``."""
    max_size: int
    """Longer photographs are reduced to this many pixels on the long side, if they have no poses yet."""
    matching: str
    """As for ``l2o photos``."""
    frames: int
    """Frames that are taken from a video."""
    viewer: bool
    """Whether nerfstudio's viewer shows the training."""
    command: tuple[str, ...] = ()
    """The command line, for the report."""


def make_splat(request: Request) -> Path:
    """Do what is not done yet, and return the page that shows the splat.

    Args:
        request: What was asked for.

    Raises:
        L2OError: If a part fails; what was done before it stays, and the same command goes on from there.
    """
    source = find_capture(request.photos) if is_capture(request.photos) else None
    photos = (source.data or source.scene) if source else str(Path(request.photos).expanduser().resolve())
    refusal = SplatError(f"Another `l2o splat` writes to {request.out}; wait for it, or give another --out.")
    journal = open_journal(request.out, photos, request.method)
    with held_folder(request.out, refusal), _terminating():
        if source is None and journal.posed is None:
            # A capture without a record was made by a call that was killed right after.
            shutil.rmtree(request.out / CAPTURE, ignore_errors=True)
            check_folders(Path(photos), request.out / CAPTURE)
        journal.save(request.out)
        with _stoppable(), Display(_parts(request, journal, source)) as display:
            if source is None:
                source = _pose(request, journal, display)
            _train(request, journal, source, display)
            return _finish(request, journal, display)


def _parts(request: Request, journal: Journal, source: CaptureSource | None) -> list[tuple[str, float]]:
    parts = []
    if source is None and journal.posed is None:
        parts.append(poses_part(Path(journal.photos), request.max_size, request.matching, request.frames))
    left = request.seconds - journal.trained_seconds
    if left > 0:
        parts.append((TRAINING, left + SECONDS_OF_A_START))
    return [*parts, (RESULTS, SECONDS_OF_RESULTS)]


def _pose(request: Request, journal: Journal, display: Display) -> CaptureSource:
    """The capture of the photographs, made if it is not there."""
    folder = request.out / CAPTURE
    if journal.posed is None:
        photos = Path(journal.photos)
        posed = pose_with_display(photos, folder, display, request.max_size, request.matching, request.frames)
        journal.posed = asdict(posed) | {"folder": str(posed.folder)}
        journal.took(POSES, display.seconds_of(POSES))
        journal.save(request.out)
    return find_capture(str(folder))


def _train(request: Request, journal: Journal, source: CaptureSource, display: Display) -> None:
    """Train for the time that is left of the budget."""
    if request.seconds <= journal.trained_seconds:
        return
    saved = _saved_runs(request, journal)
    training = Training(
        request.out,
        request.method,
        str(len(journal.runs) + 1),
        request.seconds,
        source.data,
        () if source.dataparser[0] == "nerfstudio-data" else source.dataparser,
        saved[-1] if saved else None,
        request.viewer,
    )
    journal.runs.append(training.name)
    journal.save(request.out)
    display.begin(TRAINING)

    address = None

    def follow(progress: RunProgress) -> None:
        nonlocal address
        if request.viewer and address is None:
            address = training.viewer_address()
            if address is not None:
                display.say(f"Watch the training at {address}")
        display.update(TRAINING, progress.share, _standing(progress), _seconds_left(progress))
        _note(journal, progress, request.seconds)

    last = training.run(follow)
    display.end(TRAINING, _standing(last))
    journal.took(TRAINING, display.seconds_of(TRAINING))
    if last.phase == "finished":
        journal.trained_seconds = request.seconds
    elif not has_checkpoint(training.folder) and not saved:
        raise SplatError("Stopped before the first step of the training; the same command begins it again.")
    else:
        display.say("Stopped; the results show the scene as it is now, and the same command goes on with the rest.")
    journal.save(request.out)


def _saved_runs(request: Request, journal: Journal) -> list[str]:
    """Names of the runs that have saved a step, the last one last."""
    return [name for name in journal.runs if has_checkpoint(run_folder(request.out, request.method, name))]


def _standing(progress: RunProgress) -> str:
    """A run in a few words."""
    words = {
        "reading": ["reading the photographs"],
        "starting": ["making the first scene"],
        "evaluating": ["measuring the held-out photographs"],
    }.get(progress.phase, [])
    if progress.psnr_held_out is not None:
        words.append(f"{progress.psnr_held_out:.2f} dB held out")
    if progress.loss is not None:
        words.append(f"loss {progress.loss:.4f}")
    if progress.num_gaussians is not None:
        words.append(f"{progress.num_gaussians:,} Gaussians")
    return ", ".join(words)


def _seconds_left(progress: RunProgress) -> float | None:
    return None if progress.seconds_left is None else progress.seconds_left + SECONDS_OF_A_START / 4


def _note(journal: Journal, progress: RunProgress, seconds: float) -> None:
    """Remember the held-out quality over time, for the report."""
    if progress.psnr_held_out is None:
        return
    spent = progress.share * seconds
    if not journal.curve or journal.curve[-1]["psnr_held_out"] != progress.psnr_held_out:
        point = {"seconds": spent, "psnr_held_out": progress.psnr_held_out}
        journal.curve.append(point | {"num_gaussians": progress.num_gaussians or 0})


def _finish(request: Request, journal: Journal, display: Display) -> Path:
    """Write the files and pages of the last run that has a checkpoint."""
    display.begin(RESULTS, "opening the scene")
    folder = run_folder(request.out, request.method, _saved_runs(request, journal)[-1])
    with (request.out / "results.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        # Only now: it imports torch.
        from l2o_splat.splat.results import PAGE_NAME, Making, write_results

        making = Making(
            Path(journal.photos).stem,
            request.command,
            _facts(journal, folder),
            _capture_lines(journal),
            [(point["seconds"], point["psnr_held_out"]) for point in journal.curve],
        )
        quality = write_results(
            request.out,
            folder / "config.yml",
            request.formats,
            making,
            lambda share, what: display.update(RESULTS, share, what),
        )
    display.end(RESULTS, f"PSNR {quality['psnr']:.2f} dB on held-out photographs" if "psnr" in quality else "")
    journal.took(RESULTS, display.seconds_of(RESULTS))
    journal.save(request.out)
    return request.out / PAGE_NAME


def _capture_lines(journal: Journal) -> list[tuple[str, bool]]:
    """What the poses say about the photographs, and whether it is good; empty if they came with poses."""
    if journal.posed is None:
        return []
    names = ("registered", "of", "points", "error", "parallax")
    lines = [(str(quality), quality.good) for quality in qualities(*(journal.posed[name] for name in names))]
    missing = journal.posed["missing"]
    return [*lines, (f"without a pose: {', '.join(missing)}", False)] if missing else lines


def _facts(journal: Journal, folder: Path) -> dict[str, str]:
    """How the scene was made, for the report."""
    last = read_progress(folder)
    facts = {"method": journal.method, "rule": last.rule, "steps": f"{last.step:,}"}
    facts |= {f"time for {part}": spoken(seconds) for part, seconds in journal.seconds.items()}
    return facts | {"l2o_splat": __version__, "config": str(folder / "config.yml")}


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C ends with a sentence; training has its own way to stop."""
    try:
        yield
    except KeyboardInterrupt:
        print("Stopped; the same command goes on after the last part that is done.", file=sys.stderr)
        raise SystemExit(EXIT_OF_CTRL_C) from None


@contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
