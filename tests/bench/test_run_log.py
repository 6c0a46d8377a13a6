"""Logs survive being killed at any moment."""

import json

import pytest

from l2o_splat.bench.run_log import LogInUseError, RunLog, read_log
from tests.bench.logs import parts, write_log


def test_a_line_that_was_cut_off_is_left_out_and_the_next_one_is_whole(tmp_path):
    path = write_log(tmp_path, [1.0, 1.0], {0: 10.0}, status=None)
    whole = path.read_bytes()
    for kept in range(len(whole) - 30, len(whole)):
        path.write_bytes(whole[:kept])
        steps = len(read_log(path).steps)
        assert steps == (2 if whole[:kept].count(b"\n") == 3 and kept == len(whole) - 1 else 1)
        with RunLog(path) as log:
            log.write("step", step=steps + 1, seconds=parts(1.0), other_seconds=1.0, first=False)
        assert len(read_log(path).steps) == steps + 1
        json.loads(path.read_text().splitlines()[-1])


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    path = write_log(tmp_path, [9.0, 1.0, 2.0], {0: 10.0, 2: 11.0, 3: 12.0}, status="failed", reason="killed")
    with RunLog(path) as log:
        log.write("resume", step=2)
        log.write("step", step=3, seconds=parts(5.0), other_seconds=7.0, first=True)
    contents = read_log(path)
    assert [step.total for step in contents.steps] == [9.0, 1.0, 5.0]
    assert [step.first for step in contents.steps] == [True, False, True]
    assert [step.other for step in contents.steps] == [18.0, 2.0, 7.0]
    assert list(contents.evaluations) == [0, 2]
    assert contents.end is None


def test_a_run_that_starts_again_forgets_the_first_try(tmp_path):
    write_log(tmp_path, [1.0, 1.0, 1.0], {0: 10.0, 3: 12.0}, status="failed")
    contents = read_log(write_log(tmp_path, [2.0], {0: 10.0}, status=None))
    assert [step.total for step in contents.steps] == [2.0]
    assert list(contents.evaluations) == [0]
    assert contents.end is None


def test_two_processes_cannot_write_one_log(tmp_path):
    with (
        RunLog(tmp_path / "log.jsonl"),
        pytest.raises(LogInUseError, match="another process"),
        RunLog(tmp_path / "log.jsonl"),
    ):
        pass


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with RunLog(tmp_path / "log.jsonl") as log, pytest.raises(ValueError, match="not JSON compliant"):
        log.write("evaluation", step=0, psnr=float("nan"))
