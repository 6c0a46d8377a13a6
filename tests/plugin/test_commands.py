"""ns-eval and ns-render as a user runs them, on a machine without a GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.captures import look_at_origin, method_config, train


@pytest.fixture
def environment():
    """The scripts of this python's environment are on the PATH, as after activating it."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


RUN_SCRIPTS = """
import json, runpy, sys
for command in json.loads(sys.argv[1]):
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def run(commands: list[list], environment) -> None:
    """Run installed scripts in one fresh process: most of the time of each would go into importing nerfstudio."""
    commands = [[shutil.which(name, path=environment["PATH"]), *map(str, rest)] for name, *rest in commands]
    program = [sys.executable, "-c", RUN_SCRIPTS, json.dumps(commands)]
    result = subprocess.run(program, env=environment, capture_output=True, text=True)
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

    frames = [
        {"camera_to_world": look_at_origin([1.0, y, 0.2]).flatten().tolist(), "fov": 50, "aspect": 1.5}
        for y in (0.1, 0.2, 0.3)
    ]
    path = {"camera_type": "perspective", "render_height": 32, "render_width": 48, "seconds": 1, "camera_path": frames}
    path_file = tmp_path / "path.json"
    path_file.write_text(json.dumps(path | {"fps": 3, "is_cycle": False, "smoothness_value": 0}))
    metrics, along_path, between = tmp_path / "metrics.json", tmp_path / "path.mp4", tmp_path / "interpolated.mp4"
    load, poses = ["--load-config", yml], ["--pose-source", "eval", "--interpolation-steps", "4"]
    run(
        [
            ["ns-eval", *load, "--output-path", metrics],
            ["ns-render", "camera-path", *load, "--camera-path-filename", path_file, "--output-path", along_path],
            ["ns-render", "interpolate", *load, *poses, "--output-path", between],
        ],
        environment,
    )
    assert json.loads(metrics.read_text())["results"]["psnr"] > 10
    assert video_frames(along_path, environment) == 3
    assert video_frames(between, environment) == 4
