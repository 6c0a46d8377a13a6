"""``l2o chunks`` on captures that nerfstudio reads, and training scenes from what it wrote."""

import numpy as np
import pytest
import torch

from l2o_splat import cli
from l2o_splat.plugin.training_captures import read_training_capture
from l2o_splat.scenes.chunks.folder import ChunkFolder
from l2o_splat.training.chunk_options import ChunkOptions
from l2o_splat.training.chunk_source import ChunkSource
from tests.captures import shared_capture
from tests.plugin.captures import edit_transforms, write_tiny_capture


def run(*words) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["chunks", *map(str, words)])
    if ended.value.code:
        raise RuntimeError(ended.value.code)


def test_captures_with_and_without_points_become_scenes(tmp_path, capsys):
    first, second = (write_tiny_capture(tmp_path / name) for name in ("first", "second"))
    edit_transforms(second, lambda meta: meta.pop("ply_file_path"))
    run(first, second, "--out", tmp_path / "out", "--stage", "test")
    said = capsys.readouterr().out.splitlines()
    assert said[-1].endswith(
        f"--data.chunks.folder {tmp_path}/out/test --data.chunks.points {tmp_path}/out/test/points"
    )
    folder = ChunkFolder(tmp_path / "out" / "test")
    assert folder.keys == ("first", "second")
    assert [path.name for path in (tmp_path / "out" / "test" / "points").iterdir()] == ["first.ply"]
    capture = read_training_capture(first, ("nerfstudio-data", "--load-3D-points"))
    scene = folder.scene("first")
    assert torch.allclose(scene.cameras.viewmats, capture.views.cameras.viewmats, atol=1e-6)
    assert torch.allclose(scene.cameras.Ks, capture.views.cameras.Ks, atol=1e-3)
    with pytest.raises(RuntimeError, match="already holds something"):
        run(first, "--out", tmp_path / "out", "--stage", "test")


@pytest.mark.parametrize("name", ["banana_tiny", "fern"])
def test_photographs_show_their_points_where_a_training_sees_them(tmp_path, name):
    """Through reader, JPEG, reduction and crop, points have the colours of the pixels they fall on, not of others."""
    run(shared_capture(name), "--out", tmp_path / "out")
    folder = tmp_path / "out" / "train"
    options = ChunkOptions(
        folder, size=(128, 192), sampler="whole-scene", context_views=6, target_views=3, points=folder / "points"
    )
    capture = ChunkSource(options).capture(0)
    cameras, points = capture.views.cameras, capture.points

    def error(*shift: float) -> float:
        pixels, depth = cameras.project(points.xyz)
        pixels = pixels + torch.tensor(shift)
        view, point = cameras.inside(pixels, depth).nonzero(as_tuple=True)
        column, row = pixels[view, point].long().unbind(dim=1)
        return float(np.median((capture.views.images[view, row, column] - points.rgb[point]).abs().mean(dim=1)))

    beside = [error(*shift) for shift in ((-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))]
    assert error(0.0, 0.0) < 0.95 * min(beside)
