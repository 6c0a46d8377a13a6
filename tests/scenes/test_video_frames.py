"""Frames of a video: the sharpest of each stretch, upright, and one sentence for what is no video."""

import subprocess

import numpy as np
import pytest
from PIL import Image, ImageFilter

from l2o_splat.scenes.photo_folders import PhotosError, default_capture, is_video
from l2o_splat.scenes.photos import pose_photos
from l2o_splat.scenes.video_frames import copy_frames, sharpest_of_windows

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

SHARP = (1, 7, 14, 17)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Twenty frames of noise, all blurred but four, one in each window of five; numbered by a gray corner."""
    folder = tmp_path_factory.mktemp("video")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8))
    for number in range(20):
        frame = noise if number in SHARP else noise.filter(ImageFilter.GaussianBlur(2))
        frame = frame.copy()
        frame.paste((number * 12,) * 3, (0, 0, 32, 32))
        frame.save(folder / f"{number:02d}.png")
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-framerate", "10", "-i", str(folder / "%02d.png")]
    subprocess.run([*ffmpeg, "-c:v", "libx264", "-crf", "5", "-pix_fmt", "yuv444p", folder / "clip.mp4"], check=True)
    return folder / "clip.mp4"


def test_the_sharp_frames_are_taken(video, tmp_path):
    shares = []
    copies = copy_frames(video, tmp_path / "images", 4, 64, lambda _, share: shares.append(share), lambda _: None)
    assert list(copies.originals) == [f"frame_{number:06d}.jpg" for number in SHARP]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0, 1)
    for number in SHARP:
        with Image.open(tmp_path / "images" / f"frame_{number:06d}.jpg") as frame:
            assert frame.size == (64, 48)
            assert abs(np.array(frame.convert("L"))[2:12, 2:12].mean() - number * 12) < 4


def test_a_short_video_gives_all_its_frames(video, tmp_path):
    copies = copy_frames(video, tmp_path / "images", 300, 1600, lambda *_: None, lambda _: None)
    assert len(copies) == 20
    with Image.open(tmp_path / "images" / "frame_000019.jpg") as frame:
        assert frame.size == (128, 96)


def test_windows_cover_the_video():
    sharpness = np.zeros(103)
    sharpness[[0, 40, 102]] = 1
    chosen = sharpest_of_windows(sharpness, 10)
    assert len(chosen) == 10 and {0, 40, 102} <= set(chosen)
    assert max(np.diff(chosen)) < 2 * 103 / 10


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    (tmp_path / "notes.txt").write_text("text")
    pytest.importorskip("pycolmap")
    with pytest.raises(PhotosError, match=r"broken.mp4 cannot be decoded by ffmpeg"):
        pose_photos(tmp_path / "broken.mp4", tmp_path / "out", report=lambda _: None)
    with pytest.raises(PhotosError, match=r"notes.txt is no video"):
        pose_photos(tmp_path / "notes.txt", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "notes.txt"]


def test_a_folder_with_only_a_video_points_to_it(video, tmp_path):
    pytest.importorskip("pycolmap")
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.MOV").write_bytes(video.read_bytes())
    with pytest.raises(PhotosError, match=r"give the file itself .*IMG_1.MOV"):
        pose_photos(tmp_path / "phone", tmp_path / "out", report=lambda _: None)


def test_the_capture_of_a_video_lies_beside_it(video):
    assert is_video(video)
    assert default_capture(video) == video.parent / "clip-capture"
