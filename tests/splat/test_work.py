"""The whole command on a tiny capture that has poses."""

import json

from l2o_splat.cli import main
from l2o_splat.ply import read_ply
from l2o_splat.sharing import read_splat
from tests.plugin.captures import write_tiny_capture


def test_a_capture_becomes_files_a_page_and_a_report(tmp_path, capsys):
    out = tmp_path / "result"
    try:
        main(["splat", str(write_tiny_capture(tmp_path / "capture")), "--out", str(out), "--seconds", "2"])
    except SystemExit as end:
        assert not end.code, end.code
    told = capsys.readouterr().out
    assert "This takes about" in told and "training: done" in told and str(out / "view.html") in told
    gaussians = read_ply(out / "splat.ply")
    assert len(gaussians) == len(read_splat(out / "splat.spz")) >= 60
    assert "<canvas" in (out / "view.html").read_text() or "<script" in (out / "view.html").read_text()
    report = (out / "report.html").read_text()
    assert "dB on held-out photographs" in report and report.count("data:image/jpeg") >= 2
    journal = json.loads((out / "splat.json").read_text())
    assert journal["trained_seconds"] == 2.0 and journal["runs"] == ["1"]
