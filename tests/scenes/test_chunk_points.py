"""Points beside chunks: PLY files and COLMAP models give the same ones, and those of another frame are refused."""

import struct

import pytest
import torch

from l2o_splat.scenes.capture import Points, write_points
from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.folder import ChunkFolder
from l2o_splat.scenes.chunks.points import read_scene_points
from tests.scenes.chunk_files import entry, write_folder


@pytest.fixture
def cameras(tmp_path):
    return ChunkFolder(write_folder(tmp_path / "chunks", [entry("a")])).scene("a").cameras


@pytest.fixture
def points(cameras):
    """Points in front of the cameras, of colours that 8 bits hold exactly."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(30, 2, generator=generator) * torch.tensor([cameras.width, cameras.height])
    xyz = cameras[:1].unproject(pixels, torch.rand(1, 30, generator=generator) + 2)[0]
    return Points(xyz, torch.randint(256, (30, 3), generator=generator) / 255)


def write_binary(path, points):
    data = struct.pack("<Q", len(points))
    for i, (xyz, rgb) in enumerate(zip(points.xyz.tolist(), (points.rgb * 255).round().int().tolist(), strict=True)):
        track = i % 3
        data += struct.pack("<Q3d3BdQ", 7 * i, *xyz, *rgb, 0.5, track) + struct.pack("<2I", i, i) * track
    path.parent.mkdir(parents=True)
    path.write_bytes(data)


def write_text(path, points):
    lines = ["# 3D point list with one line of data per point:"]
    for i, (xyz, rgb) in enumerate(zip(points.xyz.tolist(), (points.rgb * 255).round().int().tolist(), strict=True)):
        lines.append(" ".join(map(repr, [i, *xyz, *rgb, 0.5])) + " 1 2 3 4")
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")


def test_every_place_gives_the_same_points(tmp_path, cameras, points):
    for name in ("ply", "folder", "binary", "text"):
        (tmp_path / name).mkdir()
    write_points(tmp_path / "ply" / "a.ply", points)
    (tmp_path / "folder" / "a").mkdir()
    write_points(tmp_path / "folder" / "a" / "sparse_pc.ply", points)
    write_binary(tmp_path / "binary" / "a" / "sparse" / "0" / "points3D.bin", points)
    write_text(tmp_path / "text" / "a" / "sparse" / "0" / "points3D.txt", points)
    for name in ("ply", "folder", "binary", "text"):
        found = read_scene_points(tmp_path / name, "a", cameras)
        assert torch.equal(found.xyz, points.xyz) and torch.allclose(found.rgb, points.rgb, atol=1e-6)


def test_points_in_another_frame_are_refused(tmp_path, cameras, points):
    # Axes as nerfstudio turns the worlds of its captures.
    turned = Points(points.xyz[:, [0, 2, 1]] * torch.tensor([1.0, 1.0, -1.0]), points.rgb)
    write_points(tmp_path / "a.ply", turned)
    with pytest.raises(ChunkError, match="see 0% of the points .* bring them to the world frame"):
        read_scene_points(tmp_path, "a", cameras)


def test_missing_and_damaged_points_are_refused(tmp_path, cameras, points):
    with pytest.raises(ChunkError, match=r"no points of scene a; one of a.ply, a/sparse_pc.ply, a/sparse/0/points3D"):
        read_scene_points(tmp_path, "a", cameras)
    file = tmp_path / "a" / "sparse" / "0" / "points3D.bin"
    write_binary(file, points)
    whole = file.read_bytes()
    for damaged in (whole[:-5], whole[: len(whole) // 2], whole + b"1234"):
        file.write_bytes(damaged)
        with pytest.raises(ChunkError, match="points3D.bin cannot be read"):
            read_scene_points(tmp_path, "a", cameras)
    file.write_bytes(struct.pack("<Q", 0))
    with pytest.raises(ChunkError, match="are none"):
        read_scene_points(tmp_path, "a", cameras)
    (tmp_path / "a.ply").write_text("no ply")
    with pytest.raises(ChunkError, match="a.ply cannot be read"):
        read_scene_points(tmp_path, "a", cameras)
