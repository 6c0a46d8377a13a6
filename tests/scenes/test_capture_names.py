"""Arguments that name captures, and the dataparsers found for them."""

import pytest

from l2o_splat.scenes.capture_names import CaptureNameError, CaptureSource, find_capture


def test_captures_are_recognised_by_their_files(tmp_path):
    for folder, file in (
        ("ours", "transforms.json"),
        ("model", "sparse/0/cameras.bin"),
        ("blender", "transforms_train.json"),
    ):
        (tmp_path / folder / file).parent.mkdir(parents=True)
        (tmp_path / folder / file).touch()
    ours = find_capture(str(tmp_path / "ours"))
    assert (ours.scene, ours.dataparser[0], ours.data) == ("ours", "nerfstudio-data", str(tmp_path / "ours"))
    assert find_capture(str(tmp_path / "model")).dataparser == ("colmap", "--colmap-path", "sparse/0")
    assert find_capture(str(tmp_path / "blender")).dataparser == ("blender-data",)
    assert find_capture(str(tmp_path / "ours"), "scannet-data --scale-factor 2").dataparser == (
        "scannet-data",
        "--scale-factor",
        "2",
    )
    (tmp_path / "photos").mkdir()
    with pytest.raises(CaptureNameError, match="l2o photos"):
        find_capture(str(tmp_path / "photos"))
    with pytest.raises(CaptureNameError, match="is no folder"):
        find_capture(str(tmp_path / "nothing"))


def test_procedural_captures_have_a_name_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_capture("l2o-demo:3") == CaptureSource("l2o-demo:3", ("l2o-demo", "--seed", "3"), None)
    assert find_capture("l2o-demo").dataparser == ("l2o-demo", "--seed", "0")
