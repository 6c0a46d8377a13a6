"""How ``l2o photos`` ends when it is stopped."""

import pytest
from PIL import Image

from l2o_splat import cli


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
