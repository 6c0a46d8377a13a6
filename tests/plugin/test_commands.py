"""ns-eval, ns-render and ours beside them as a user runs them, on a machine without a GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from l2o_splat.ply import read_ply
from tests.plugin.captures import look_at_origin, method_config, train, write_tiny_capture


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


def video(path: Path, environment) -> tuple[int, str]:
    """Number of frames, and pixel format and size as ffmpeg prints them."""
    read = subprocess.run(
        ["ffmpeg", "-i", str(path), "-f", "null", "-"], env=environment, capture_output=True, text=True
    ).stderr
    return int(read.rpartition("frame=")[2].split()[0]), re.search(
        r"Video: h264.*?(yuv\w+).*?, (\d+x\d+)", read
    ).groups()


def test_evaluation_export_and_videos(tmp_path, environment):
    """With one photograph held out, and trained at half the size."""
    config = method_config(write_tiny_capture(tmp_path / "capture", 8), tmp_path / "out", "l2o-adam-tuned", steps=5)
    config.pipeline.datamanager.camera_res_scale_factor = 0.5
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
    load, renders = ["--load-config", yml], tmp_path / "renders"
    crop = ["--obb-center", "0", "0", "0", "--obb-rotation", "0", "0", "0", "--obb-scale", "9", "9", "9"]
    run(
        [
            ["ns-eval", *load, "--output-path", metrics],
            ["l2o", "eval", *load, "--output-path", tmp_path / "again.json"],
            ["l2o", "export", *load, "--output-dir", tmp_path / "exports", *crop],
            ["ns-render", "camera-path", *load, "--camera-path-filename", path_file, "--output-path", along_path],
            ["ns-render", "interpolate", *load, "--interpolation-steps", "4", "--output-path", between],
            ["ns-render", "dataset", *load, "--split", "train", "--output-path", renders],
        ],
        environment,
    )
    results, again = (json.loads(path.read_text())["results"] for path in (metrics, tmp_path / "again.json"))
    assert results["psnr"] == again["psnr"] > 10
    assert len(read_ply(tmp_path / "exports/splat.ply")) == 60
    assert video(along_path, environment) == (3, ("yuv420p", "48x32"))
    assert video(between, environment) == (4 * (8 - 1), ("yuv420p", "48x36"))
    for folder in ("rgb", "gt-rgb"):
        assert [Image.open(path).size for path in (renders / "train" / folder).iterdir()] == [(24, 18)] * 7
