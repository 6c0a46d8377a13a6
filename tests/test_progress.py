"""A program that follows a run sees whole reports, and a report that cannot be written stops nothing."""

import json

from l2o_splat.progress import PROGRESS_NAME, SECONDS_BETWEEN, ProgressReporter, RunProgress, read_progress


def test_what_is_reported_is_what_another_process_reads(tmp_path):
    reporter, heard = ProgressReporter(tmp_path), []
    reporter.listeners.append(heard.append)
    assert read_progress(tmp_path) is None
    reporter.report(phase="training", step=3, loss=0.5)
    reporter.report(psnr_held_out=21.5)
    assert heard[-1] == reporter.current == read_progress(tmp_path)
    assert (heard[-1].phase, heard[-1].loss, heard[-1].psnr_held_out) == ("training", 0.5, 21.5)
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS_NAME], "something is left beside the file"


def test_steps_are_due_only_so_often():
    now = [0.0]
    reporter = ProgressReporter(now=lambda: now[0])
    assert reporter.is_due
    reporter.report(step=1)
    assert not reporter.is_due
    now[0] += SECONDS_BETWEEN
    assert reporter.is_due


def test_a_report_that_cannot_be_written_reaches_listeners_all_the_same(tmp_path):
    reporter, heard = ProgressReporter(tmp_path / "removed"), []
    reporter.listeners.append(heard.append)
    reporter.report(phase="training")
    assert heard[0].phase == "training" and read_progress(tmp_path / "removed") is None


def test_a_report_of_a_newer_version_can_be_read(tmp_path):
    (tmp_path / PROGRESS_NAME).write_text(json.dumps({"phase": "finished", "share": 1.0, "colour": "red"}))
    assert read_progress(tmp_path) == RunProgress(phase="finished", share=1.0)
