"""ns-eval and ns-render as a user runs them, on a machine without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.captures import look_at_origin, method_config, train


@pytest.fixture
def environment():
    """The scripts of this python's environment are on the PATH, as after activating it."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command: list, environment) -> None:
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def video_frames(path: Path, environment) -> int:
    counted = subprocess.run(
        ["ffmpeg", "-i", str(path), "-f", "null", "-"], env=environment, capture_output=True, text=True
    )
    return int(counted.stderr.rpartition("frame=")[2].split()[0])


def test_evaluation_and_videos(tiny_capture, tmp_path, environment):
    config = method_config(tiny_capture, tmp_path / "out", "l2o-adam-tuned", steps=5)
    train(config)
    yml = config.get_base_dir() / "config.yml"

    metrics = tmp_path / "metrics.json"
    run(["ns-eval", "--load-config", yml, "--output-path", metrics], environment)
    assert json.loads(metrics.read_text())["results"]["psnr"] > 10

    frames = [
        {"camera_to_world": look_at_origin([1.0, y, 0.2]).flatten().tolist(), "fov": 50, "aspect": 1.5}
        for y in (0.1, 0.2, 0.3)
    ]
    path = {"camera_type": "perspective", "render_height": 32, "render_width": 48, "seconds": 1, "camera_path": frames}
    (tmp_path / "path.json").write_text(json.dumps(path | {"fps": 3, "is_cycle": False, "smoothness_value": 0}))
    video = tmp_path / "path.mp4"
    arguments = ["--camera-path-filename", tmp_path / "path.json", "--output-path", video]
    run(["ns-render", "camera-path", "--load-config", yml, *arguments], environment)
    assert video_frames(video, environment) == 3

    video = tmp_path / "interpolated.mp4"
    arguments = ["--pose-source", "eval", "--interpolation-steps", "4", "--output-path", video]
    run(["ns-render", "interpolate", "--load-config", yml, *arguments], environment)
    assert video_frames(video, environment) == 4
