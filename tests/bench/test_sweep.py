"""A sweep survives failing runs and being killed. Its training processes are stand-ins, see fake_run.py."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.processes import steps_taken
from l2o_splat.bench.sweep import RUNS_NAME, read_run, run_sweep
from l2o_splat.system import lock
from tests.bench.logs import make_spec

FAKE_RUN = (sys.executable, str(Path(__file__).with_name("fake_run.py")))


@pytest.fixture
def attempts(tmp_path, monkeypatch):
    path = tmp_path / "attempts"
    monkeypatch.setenv("ATTEMPTS", str(path))
    return lambda: path.read_text().splitlines() if path.exists() else []


def sweep(specs, out):
    console = Console(file=io.StringIO(), width=200)
    run_sweep(specs, out, False, console, command=FAKE_RUN)
    return console.file.getvalue()


def test_one_failure_is_reported_and_the_others_go_on(tmp_path, attempts):
    specs = [make_spec(method=method) for method in ("good", "crash", "killed", "fine")]
    output = sweep(specs, tmp_path / "out")
    runs = [read_run(spec, tmp_path / "out") for spec in specs]
    assert [run.status for run in runs] == ["ok", "failed", "failed", "ok"]
    assert runs[1].reason == "The process ended with status 1: Something the method could not do."
    assert runs[2].reason == "The process was killed by SIGKILL."
    assert (runs[2].steps, runs[2].last.psnr) == (2, 12.0)
    assert "fern crash seed 0: failed: The process ended" in output
    assert "fern good seed 0: PSNR 14.00 dB after 4 steps" in output
    assert "4/4" in output


def test_a_process_killed_for_memory_is_told_apart(tmp_path, attempts, monkeypatch):
    counts = iter([0, 1])
    monkeypatch.setattr("l2o_splat.bench.processes.kills_for_memory", lambda: next(counts))
    spec = make_spec(method="killed")
    sweep([spec], tmp_path / "out")
    run = read_run(spec, tmp_path / "out")
    assert run.status == "out_of_memory"
    assert "--scale" in run.reason


def test_a_second_sweep_runs_only_what_did_not_come_to_a_good_end(tmp_path, attempts):
    specs = [make_spec(method=method) for method in ("good", "crash", "killed")]
    sweep(specs, tmp_path / "out")
    assert len(attempts()) == 3
    output = sweep([*specs, make_spec(method="fine")], tmp_path / "out")
    assert "1 of 4 runs are finished" in output
    assert sorted(attempts()[3:]) == [
        "fern crash 0, 0 steps before",
        "fern fine 0, 0 steps before",
        "fern killed 0, 2 steps before",
    ]
    assert read_run(specs[2], tmp_path / "out").status == "ok"


def test_a_sweep_killed_midway_goes_on_where_it_stopped(tmp_path, attempts):
    specs = [make_spec(method="good"), make_spec(method="slow", steps=30), make_spec(method="fine")]
    out = tmp_path / "out"
    code = (
        "import io, sys; from rich.console import Console; from tests.bench.test_sweep import *;"
        f"specs = [make_spec(method='good'), make_spec(method='slow', steps=30), make_spec(method='fine')];"
        f"sweep(specs, Path({str(out)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], cwd=Path(__file__).parents[2])
    running = out / RUNS_NAME / specs[1].folder_name
    deadline = time.monotonic() + 300
    while steps_taken(running) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [read_run(spec, out).status for spec in specs] == ["ok", "pending", "pending"]
    time.sleep(0.3)  # The orphan sees that its parent is gone and ends.

    sweep(specs, out)
    runs = [read_run(spec, out) for spec in specs]
    assert [run.status for run in runs] == ["ok"] * 3
    assert [point.step for point in runs[1].curve] == list(range(31))
    tries = attempts()
    assert len(tries) == 4
    assert int(tries[2].split(", ")[1].split()[0]) >= 5
    # A step of the second process was its first one, and is charged like the others.
    assert runs[1].seconds == pytest.approx(30.0)


def test_two_sweeps_cannot_write_one_report(tmp_path, attempts):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as file:
        assert lock(file.fileno())
        with pytest.raises(BenchError, match="Another"):
            sweep([make_spec(method="good")], tmp_path / "out")
    assert attempts() == []


def test_steps_are_read_while_a_run_goes_on(tmp_path, attempts):
    spec = make_spec(method="killed")
    sweep([spec], tmp_path / "out")
    assert steps_taken(tmp_path / "out" / RUNS_NAME / spec.folder_name) == 2
    assert steps_taken(tmp_path / "nowhere") == 0
