"""`l2o prove` as a user types it, on a machine without a card."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from l2o_splat import cli
from l2o_splat.commands.prove import NOT_DECIDED, NOT_RUN, PROVEN, REFUTED, status_of
from l2o_splat.prove.parts import PARTS
from tests.prove.parts import part, run

without_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def prove(*words):
    command = [sys.executable, "-W", "ignore", "-m", "l2o_splat.cli", "prove", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@without_card
def test_without_a_card_it_says_what_it_would_do(tmp_path):
    done = prove("--out", tmp_path / "out")
    assert done.returncode == NOT_RUN == 3
    for one in PARTS:
        assert f"\n{one.name} (about {one.minutes:g} min, 10 at most" in f"\n{done.stdout}"
        assert one.decides in done.stdout and all(claim in done.stdout for claim in one.claims)
    assert "Nothing was run: there is no CUDA device." in done.stdout
    assert not (tmp_path / "out").exists()


def test_the_list_of_parts_loads_nothing_slow(capsys):
    code = "import sys; from l2o_splat import cli\ntry: cli.main()\nfinally: print('loaded', 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "prove", "--list"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("loaded False\n")
    assert "garden (about 7 min, 10 at most; needs --garden DIR" in done.stdout


def test_options_that_complete_a_part_show_in_the_list(tmp_path, capsys):
    words = ["prove", "--list", "--only", "lead", "golden", "--against", "splatfacto"]
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    text = capsys.readouterr().out
    assert caught.value.code == 0 and "needs --golden DIR" in text and "--against" not in text
    assert "facts" not in text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--only", "gardn"], "--only gardn: there is no such part; choose from facts, compilation"),
        (["--again", "nothing"], "--again nothing: there is no such part"),
        (["--only", "facts", "--again", "lead"], "--again lead is more than --only facts; name it in both"),
        (["--garden", "no-such-folder"], "--garden no-such-folder is no folder"),
        (["--data", "."], "holds neither a transforms.json nor a COLMAP model"),
    ],
)
def test_wrong_options_end_in_a_sentence_before_anything_runs(words, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^l2o: .*{reason}"):
        cli.main(["prove", *words])
    assert not list(Path(tmp_path).iterdir())


def test_the_exit_status_says_the_worst(tmp_path):
    records, _ = run([part(name) for name in ("good", "odd", "crash")], tmp_path)
    good, odd, crash = records.values()
    assert status_of([good], False) == PROVEN == 0
    assert status_of([good, crash], False) == NOT_DECIDED == 4
    assert status_of([good, crash, odd], False) == REFUTED == 1
    assert status_of([], False) == status_of([], True) == NOT_RUN
    assert (status_of([good], True), status_of([good, crash], True)) == (PROVEN, NOT_DECIDED)


def test_an_interrupted_run_is_not_taken_for_a_proof(tmp_path, monkeypatch, capsys):
    records, _ = run([part("good")], tmp_path)

    def interrupted(parts, setting, again, say):
        yield replace(records["good"], part="facts")
        raise KeyboardInterrupt

    monkeypatch.setattr("l2o_splat.prove.runner.run_parts", interrupted)
    monkeypatch.setattr("l2o_splat.commands.prove._cuda_is_here", lambda: True)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        cli.main(["prove", "--out", str(out), "--only", "facts", "backends", "golden"])
    assert caught.value.code == NOT_DECIDED
    assert "Interrupted; the same command goes on from here." in capsys.readouterr().out
    reasons = {one["part"]: one["reason"] for one in json.loads((out / "report.json").read_text())["parts"]}
    assert reasons["backends"] == "It has not run yet." and "--golden DIR" in reasons["golden"]
    assert reasons["methods"] == "It was not chosen (--only)."


def test_nothing_that_can_run_is_not_a_proof(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("l2o_splat.commands.prove._cuda_is_here", lambda: True)
    with pytest.raises(SystemExit) as caught:
        cli.main(["prove", "--out", str(tmp_path / "out"), "--only", "golden"])
    assert caught.value.code == NOT_RUN and (tmp_path / "out/report.html").exists()


def test_a_rehearsal_runs_parts_in_their_processes_and_leaves_a_report(tmp_path, capsys):
    out = tmp_path / "out"

    def rehearse(part):
        with pytest.raises(SystemExit) as caught:
            cli.main(["prove", "--rehearse", "--out", str(out), "--only", part])
        printed = capsys.readouterr().out
        assert caught.value.code == PROVEN, printed
        return printed

    assert f"Report: {out / 'report.html'}" in rehearse("facts")
    values = json.loads((out / "report.json").read_text())
    status = {one["part"]: one["status"] for one in values["parts"]}
    assert values["rehearsal"] and status["facts"] == "measured"
    assert set(status.values()) == {"measured", "left out"}
    assert values["verdicts"]["proven"] == values["verdicts"]["refuted"] == 0

    # What another call has found is part of the report that this one writes.
    rehearse("compilation")
    values = json.loads((out / "report.json").read_text())
    measured = {one["part"] for one in values["parts"] if one["status"] == "measured"}
    assert measured == {"facts", "compilation"}
