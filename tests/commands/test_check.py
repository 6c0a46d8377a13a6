import json
import subprocess
import sys

import pytest

from l2o_splat.cli import main
from l2o_splat.commands import check


def test_everything_needed_is_here_and_each_line_stands_for_one_part(capsys):
    findings = check.run_checks()
    assert [finding.name for finding in findings if finding.needed and not finding.ok] in ([], ["ffmpeg"])
    methods = next(finding for finding in findings if finding.name == "nerfstudio")
    assert {"l2o-adam", "l2o-adam-tuned", "l2o-demo"} <= set(methods.found.replace(",", "").split())
    assert all(finding.remedy for finding in findings if not finding.ok)


def test_what_is_missing_is_said_with_what_to_run():
    findings = [
        check.Finding("torch", True, "2.13"),
        check.Finding("ffmpeg", False, "not on the PATH", "l2o check --fix"),
        check.Finding("lpips", False, "no backbone", "fetch it", needed=False),
    ]
    lines = list(check.report(findings))
    assert lines[0].startswith("ok       torch")
    assert lines[1].startswith("MISSING  ffmpeg")
    assert lines[2].endswith("-> l2o check --fix")
    assert lines[3].startswith("without  lpips")


@pytest.mark.parametrize(("ok", "needed", "status"), [(True, True, 0), (False, False, 0), (False, True, 1)])
def test_exit_status_and_json(monkeypatch, capsys, ok, needed, status):
    monkeypatch.setattr(check, "run_checks", lambda: [check.Finding("part", ok, "found", "remedy", needed)])
    with pytest.raises(SystemExit) as caught:
        main(["check", "--json"])
    assert caught.value.code == status
    expected = {"name": "part", "ok": ok, "found": "found", "remedy": "remedy", "needed": needed}
    assert json.loads(capsys.readouterr().out) == [expected]


def test_an_ffmpeg_is_put_beside_python_when_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    link = check.link_ffmpeg()
    assert link == tmp_path / "ffmpeg"
    assert "ffmpeg version" in subprocess.run([link, "-version"], capture_output=True, text=True).stdout
    assert check.link_ffmpeg() is None
    assert check.check_ffmpeg().ok
