"""A followed process: its reports, Ctrl-C, and failures."""

import os
import signal
import sys
import threading
import time

import pytest

from l2o_splat.splat.errors import SplatError
from l2o_splat.splat.training import Training

PROGRAM = """
import pathlib, signal, sys, time
from l2o_splat.progress import ProgressReporter
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True)
reporter = ProgressReporter(folder)
stops = []
signal.signal(signal.SIGINT, lambda *_: stops.append(True))
reporter.report(phase="training", share=0.5, loss=0.25)
if sys.argv[2] == "fails":
    reporter.report(phase="failed", message="The capture has no photographs.")
    sys.exit(1)
if sys.argv[2] == "dies":
    sys.exit(3)
if sys.argv[2] == "waits":
    for _ in range(600):
        time.sleep(0.05)
        if stops:
            # Long enough for a second signal to arrive, if there were one.
            time.sleep(0.3)
            reporter.report(phase="stopped", message=str(len(stops)))
            sys.exit(130)
time.sleep(1.0)
reporter.report(phase="finished", share=1.0)
"""


def training_that(behaviour, out, monkeypatch):
    training = Training(out, "l2o-adam-tuned", "1", 10.0, None, ("l2o-demo",), None, False)
    command = [sys.executable, "-c", PROGRAM, str(training.folder), behaviour]
    monkeypatch.setattr(Training, "command", lambda self: command)
    return training


def test_a_run_is_followed_to_its_end(tmp_path, monkeypatch):
    reports = []
    last = training_that("finishes", tmp_path, monkeypatch).run(reports.append)
    assert last.phase == "finished"
    assert ("training", 0.25) in [(report.phase, report.loss) for report in reports]


def test_ctrl_c_reaches_the_run_once_and_its_end_is_waited_for(tmp_path, monkeypatch):
    def press():
        while not (tmp_path / "training/l2o-adam-tuned/1/progress.json").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    # A shell lets processes in its background ignore Ctrl-C, these tests among them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        pressing.start()
        last = training_that("waits", tmp_path, monkeypatch).run(lambda report: None)
    finally:
        signal.signal(signal.SIGINT, before)
    pressing.join()
    assert (last.phase, last.message) == ("stopped", "1")


@pytest.mark.parametrize(("behaviour", "why"), [("fails", "has no photographs"), ("dies", "status 3")])
def test_a_failure_says_why_and_where_to_look(tmp_path, monkeypatch, behaviour, why):
    with pytest.raises(SplatError, match=rf"{why}.*training-1\.log"):
        training_that(behaviour, tmp_path, monkeypatch).run(lambda report: None)


def test_a_run_goes_on_from_the_one_before(tmp_path):
    words = Training(tmp_path, "resplat", "2", 90.0, "/photos", (), "1", True).command()
    before = words[words.index("--load-dir") + 1]
    assert before == str(tmp_path / "training" / "resplat" / "1" / "nerfstudio_models")
    assert words[words.index("--seconds") + 1] == "90" and words[words.index("--data") + 1] == "/photos"
