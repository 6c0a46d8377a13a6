"""Parts run one by one; what fails or takes too long stops no other, and a second run goes on."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from l2o_splat.prove import records as records_room
from l2o_splat.prove.errors import ProveError
from l2o_splat.prove.part import Setting
from l2o_splat.prove.runner import alone_in
from tests.prove.parts import attempts, part, run


def verdicts(records):
    return {name: record.judgements[0].verdict for name, record in records.items()}


def test_what_fails_stops_no_other(tmp_path):
    parts = [part(name) for name in ("good", "crash", "killed", "cannot", "odd", "fine")]
    records, said = run(parts, tmp_path)
    undecided = "not decided"
    assert verdicts(records) == {
        **{"good": "proven", "crash": undecided, "killed": undecided},
        **{"cannot": undecided, "odd": "refuted", "fine": "proven"},
    }
    reason = "The process ended with status 1: Something that the part could not do."
    assert records["crash"].reason == records["crash"].judgements[0].found == reason
    assert records["killed"].reason == "The process was killed by SIGKILL."
    assert (records["cannot"].status, records["cannot"].reason) == ("undecided", "There is no such file here.")
    assert records["good"].numbers == {"value": 1.0} and records["good"].log == "this is good"
    assert "proven: fine is at most 1: it is 1.0" in said


def test_a_part_ends_at_its_limit_with_what_it_has_started(tmp_path):
    records, _ = run([part("slow", limit=1.0), part("good")], tmp_path)
    assert records["slow"].status == "out of time" and "after 1 seconds" in records["slow"].reason
    assert verdicts(records) == {"slow": "not decided", "good": "proven"}
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_a_second_run_keeps_what_is_decided_and_tries_the_rest(tmp_path):
    parts = [part("good"), part("crash"), part("odd")]
    first, _ = run(parts, tmp_path)
    second, said = run(parts, tmp_path)
    assert attempts(tmp_path) == ["good", "crash", "odd", "crash"]
    assert second["good"] == first["good"] and verdicts(second) == verdicts(first)
    assert f"good: decided on {first['good'].date}, kept" in said


def test_again_runs_a_part_without_what_it_had_kept(tmp_path):
    run([part("good")], tmp_path)
    work = Setting(tmp_path, state=records_room.state_of_machine()).work("good")
    work.mkdir(parents=True)
    run([part("good"), part("fine")], tmp_path, again=["good"])
    assert attempts(tmp_path) == ["good", "good", "fine"] and not work.exists()


def test_a_part_that_reads_the_work_of_another_runs_after_it(tmp_path):
    parts = [part("good"), part("fine", after=("good",)), part("apart")]
    run(parts, tmp_path)
    run(parts, tmp_path, again=["good"])
    assert attempts(tmp_path) == ["good", "fine", "apart", "good", "fine"]


def test_other_sources_or_options_decide_anew(tmp_path, monkeypatch):
    parts = [part("good", asks=("data",)), part("fine")]
    run(parts, tmp_path)
    run(parts, tmp_path, data=Path("/captures/mine"))
    assert attempts(tmp_path) == ["good", "fine", "good"]
    other = records_room._key_of_machine() | {"sources": "of another day"}
    monkeypatch.setattr(records_room, "_key_of_machine", lambda: other)
    run(parts, tmp_path, data=Path("/captures/mine"))
    assert attempts(tmp_path)[3:] == ["good", "fine"]


@pytest.mark.parametrize("text", ["", "[]", '{"part": "good"}'])
def test_a_broken_record_is_measured_anew(tmp_path, text):
    run([part("good")], tmp_path)
    (tmp_path / "parts/good.json").write_text(text)
    run([part("good")], tmp_path)
    assert attempts(tmp_path) == ["good", "good"]
    assert json.loads((tmp_path / "parts/good.json").read_text())["status"] == "measured"


def test_numbers_that_a_part_lacks_leave_its_claims_undecided(tmp_path):
    incomplete = replace(part("good"), judge=lambda numbers: [numbers["no such number"]])
    silent = replace(part("fine"), judge=lambda numbers: [])
    records, _ = run([incomplete, silent], tmp_path)
    assert "no such number" in records["good"].judgements[0].found
    assert set(verdicts(records).values()) == {"not decided"}


def test_a_rehearsal_decides_nothing(tmp_path):
    records, _ = run([part("good"), part("odd")], tmp_path, device="cpu")
    found = {name: record.judgements[0].found for name, record in records.items()}
    assert set(verdicts(records).values()) == {"not decided"}
    assert "would say proven: it is 1.0" in found["good"] and "would say refuted: it is nan" in found["odd"]


def test_two_runs_do_not_share_a_folder(tmp_path):
    with alone_in(tmp_path), pytest.raises(ProveError, match="Another `l2o prove` is writing"), alone_in(tmp_path):
        pass
