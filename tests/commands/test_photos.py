"""What ``l2o photos`` shows while it works, and how it ends when it is stopped."""

import pytest
from PIL import Image

from l2o_splat import cli
from l2o_splat.commands.phase_display import phase_display


def test_without_a_terminal_each_phase_is_two_lines(capsys):
    with phase_display({"features": "Finding features"}) as display:
        for share in (0, 0.3, 1, 1):
            display.progress("features", share)
        display.report("WARNING: [1] of 2 photographs")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Finding features ..."
    assert lines[1].startswith("Finding features: done after")
    assert lines[2:] == ["WARNING: [1] of 2 photographs"]


def test_ctrl_c_leaves_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pycolmap")
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.new("RGB", (80, 60)).save(tmp_path / "photos" / f"{name}.jpg")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pycolmap.extract_features", interrupt)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["photos", str(tmp_path / "photos")])
    assert stopped.value.code == 130
    assert "Stopped" in capsys.readouterr().out.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
