"""Captures on disk: what is written is read again, also by nerfstudio, and never by halves."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2o_splat.scenes.capture import Capture, Points, read_capture, write_capture
from l2o_splat.views import PinholeCameras, Views

BANANA = Path(__file__).resolve().parents[3] / "shared" / "data" / "banana_tiny"


@pytest.fixture
def capture() -> Capture:
    generator = torch.Generator().manual_seed(0)
    rotations = torch.linalg.qr(torch.randn(9, 3, 3, generator=generator, dtype=torch.float64))[0]
    rotations *= torch.linalg.det(rotations)[:, None, None]
    viewmats = torch.eye(4, dtype=torch.float64).repeat(9, 1, 1)
    viewmats[:, :3, :3] = rotations
    viewmats[:, :3, 3] = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    Ks = torch.tensor([[30.0, 0, 16.5], [0, 31.0, 11.5], [0, 0, 1]]).repeat(9, 1, 1)
    images = torch.randint(0, 256, (9, 24, 32, 3), generator=generator) / 255
    points = Points(torch.randn(40, 3, generator=generator), torch.randint(0, 256, (40, 3), generator=generator) / 255)
    return Capture(Views(PinholeCameras(viewmats.float(), Ks, 32, 24), images), points)


def assert_close(found: Capture, expected: Capture) -> None:
    torch.testing.assert_close(found.views.cameras.viewmats, expected.views.cameras.viewmats, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.views.cameras.Ks, expected.views.cameras.Ks)
    torch.testing.assert_close(found.views.images, expected.views.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.points.xyz, expected.points.xyz, rtol=0, atol=0)
    torch.testing.assert_close(found.points.rgb, expected.points.rgb, rtol=0, atol=1e-6)


def test_a_capture_is_read_as_it_was_written(tmp_path, capture):
    write_capture(tmp_path / "a" / "b", capture)
    assert_close(read_capture(tmp_path / "a" / "b"), capture)


def test_a_real_capture_is_read():
    if not BANANA.is_dir():
        pytest.skip(f"needs the capture {BANANA}")
    capture = read_capture(BANANA)
    assert capture.views.images.shape == (12, 170, 256, 3)
    assert len(capture.points) == 2000
    cameras = capture.views.cameras
    # Structure from motion has seen every point in at least three of the photographs.
    camera = capture.points.xyz @ cameras.viewmats[:, :3, :3].mT + cameras.viewmats[:, None, :3, 3]
    pixels = camera @ cameras.Ks.mT
    pixels = pixels[..., :2] / pixels[..., 2:]
    within = (camera[..., 2] > 0) & (pixels >= 0).all(-1) & (pixels < torch.tensor([256, 170])).all(-1)
    assert (within.sum(dim=0) >= 3).float().mean() > 0.99


def test_nerfstudio_reads_the_same_cameras_images_and_points(tmp_path, capture):
    parsers = pytest.importorskip("nerfstudio.data.dataparsers.nerfstudio_dataparser")
    write_capture(tmp_path / "c", capture)
    config = parsers.NerfstudioDataParserConfig(
        data=tmp_path / "c",
        eval_mode="interval",
        load_3D_points=True,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
    )
    outputs = config.setup().get_dataparser_outputs("train")
    assert [path.name for path in outputs.image_filenames] == [f"000{i}.png" for i in range(1, 8)]
    cameras = outputs.cameras
    assert torch.equal(cameras.fx[:, 0], capture.views.cameras.Ks[1:8, 0, 0])
    assert torch.equal(cameras.cy[:, 0], capture.views.cameras.Ks[1:8, 1, 2])
    # Camera-to-world in OpenGL axes: a point one unit along -z lies in front of the camera, at depth 1.
    front = cameras.camera_to_worlds[:, :, 3] - cameras.camera_to_worlds[:, :, 2]
    viewmats = capture.views.cameras.viewmats[1:8]
    seen = (viewmats[:, :3, :3] @ front[:, :, None])[:, :, 0] + viewmats[:, :3, 3]
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.0, 1.0]).expand(7, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.metadata["points3D_xyz"], capture.points.xyz, rtol=0, atol=1e-6)
    difference = outputs.metadata["points3D_rgb"].int() - (capture.points.rgb * 255).round().int()
    assert difference.abs().max() <= 1


def test_ascii_points_with_more_properties_are_read(tmp_path, capture):
    write_capture(tmp_path / "c", capture)
    names = ["double x", "double y", "double z", "float nx", "uchar red", "uchar green", "uchar blue"]
    lines = ["ply", "format ascii 1.0", "comment by hand", "element vertex 2", *(f"property {n}" for n in names)]
    lines += ["end_header", "1 2 3 0.5 255 0 51", "-1 0.5 0 0 0 102 0", ""]
    (tmp_path / "c" / "sparse_pc.ply").write_text("\n".join(lines))
    points = read_capture(tmp_path / "c").points
    assert points.xyz.tolist() == [[1, 2, 3], [-1, 0.5, 0]]
    torch.testing.assert_close(points.rgb, torch.tensor([[1.0, 0.0, 0.2], [0.0, 0.4, 0.0]]))


def test_an_interrupted_writer_leaves_nothing(tmp_path, capture, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("l2o_splat.scenes.capture.write_transforms", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_capture(tmp_path / "c", capture)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_is_no_obstacle(tmp_path, capture):
    code = (
        "import os, sys, pathlib; from l2o_splat.scenes.capture import new_directory\n"
        "with new_directory(pathlib.Path(sys.argv[1])) as partial:\n"
        "    (partial / 'images').mkdir(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], check=False).returncode == 9
    assert not (tmp_path / "c").exists()
    write_capture(tmp_path / "c", capture)
    assert_close(read_capture(tmp_path / "c"), capture)


def test_a_capture_is_never_overwritten(tmp_path, capture):
    write_capture(tmp_path / "c", capture)
    with pytest.raises(FileExistsError, match="already holds something"):
        write_capture(tmp_path / "c", capture)
    assert_close(read_capture(tmp_path / "c"), capture)


def test_of_writers_at_the_same_time_one_wins(tmp_path, capture):
    outcomes = []

    def write():
        barrier.wait()
        try:
            write_capture(tmp_path / "c", capture)
            outcomes.append("written")
        except FileExistsError:
            outcomes.append("kept")

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["kept"] * 3 + ["written"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert_close(read_capture(tmp_path / "c"), capture)


def test_a_folder_that_is_no_capture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"transforms\.json"):
        read_capture(tmp_path)


def test_faults_of_a_capture_are_named(tmp_path, capture):
    write_capture(tmp_path / "good", capture)

    def broken(change) -> str:
        shutil.copytree(tmp_path / "good", tmp_path / "bad", dirs_exist_ok=True)
        path = tmp_path / "bad" / "transforms.json"
        meta = json.loads(path.read_text())
        change(meta)
        path.write_text(json.dumps(meta))
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            read_capture(tmp_path / "bad")
        return str(error.value)

    assert "distortion" in broken(lambda meta: meta.update(k1=0.1))
    assert "ply_file_path" in broken(lambda meta: meta.pop("ply_file_path"))

    def enlarge(meta):
        Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "bad" / "images" / "0003.png")

    assert "0003.png" in broken(enlarge)

    def spoil(meta):
        (tmp_path / "bad" / "sparse_pc.ply").write_bytes(b"ply of nothing")

    assert "sparse_pc.ply" in broken(spoil)
