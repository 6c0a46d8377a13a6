"""Broken metadata, points and poses: one sentence with file and field, or a warning with the count."""

import math

import numpy as np
import pytest
import torch

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.seed_points import usable_points
from tests.plugin.captures import colmap_parser, data_manager, edit_transforms, read_points, write_colmap_model
from tests.plugin.console import printed

IDENTITY = np.eye(4).tolist()


def refused(capture, expected: str, dataparser=None) -> None:
    with pytest.raises(CaptureError, match=expected) as caught:
        data_manager(capture, dataparser)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "wide", [50], -50.0, 0, math.nan, True])
@pytest.mark.parametrize("name", ["fl_x", "fl_y", "w", "h"])
def test_a_broken_number_is_named(name, value, tiny_capture):
    edit_transforms(tiny_capture, lambda meta: meta.update({name: value}))
    refused(tiny_capture, f"'{name}' in .*transforms.json is .*; a positive number is needed")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("cx", None, "'cx' in .* is null; a finite number"),
        ("k1", "strong", "'k1' in .* is 'strong'; a finite number"),
        ("distortion_params", [0.1], "'distortion_params' in .* six numbers"),
        ("applied_transform", IDENTITY, "'applied_transform' .* a matrix of 3 x 4 numbers"),
        ("applied_scale", 0, "'applied_scale' .* a positive number"),
        ("camera_model", None, "'camera_model' in .* is null; one of .*OPENCV"),
        ("camera_model", ["OPENCV"], "'camera_model'"),
        ("ply_file_path", None, "'ply_file_path' in .* is null; text"),
        ("train_filenames", None, "'train_filenames' in .* is null; a list of file names"),
        ("frames", None, "'frames' in .* is null; a list of posed images"),
        ("frames", [None], "Frame 0 in .* is null; an object"),
    ],
)
def test_a_broken_field_is_named(name, value, expected, tiny_capture):
    edit_transforms(tiny_capture, lambda meta: meta.update({name: value}))
    refused(tiny_capture, expected)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("file_path", None, "'file_path' of frame 3 in .* is null"),
        ("mask_path", 7, "'mask_path' of frame 3 in .* is 7; text"),
        ("transform_matrix", None, "'transform_matrix' of images/003.png in .* is null; a matrix of 4 x 4"),
        ("transform_matrix", IDENTITY[:3], "'transform_matrix' of images/003.png"),
        ("transform_matrix", [[None] * 4] * 4, "'transform_matrix' of images/003.png"),
        ("transform_matrix", (2 * np.eye(4)).tolist(), "images/003.png in .* is no rotation and translation"),
        ("transform_matrix", np.diag([1, 1, -1, 1]).tolist(), "is no rotation and translation .1 of 9"),
    ],
)
def test_a_broken_frame_is_named(name, value, expected, tiny_capture):
    edit_transforms(tiny_capture, lambda meta: meta["frames"][3].update({name: value}))
    refused(tiny_capture, expected)


@pytest.mark.parametrize("value", [None, "50"])
def test_a_field_of_one_camera_alone_is_named(value, tiny_capture):
    def edit(meta):
        for frame in meta["frames"]:
            frame["fl_x"] = 50.0
        meta["frames"][4]["fl_x"] = value
        del meta["fl_x"]

    edit_transforms(tiny_capture, edit)
    refused(tiny_capture, "'fl_x' of images/004.png in .*; a positive number")
    edit_transforms(tiny_capture, lambda meta: meta["frames"][4].pop("fl_x"))
    refused(tiny_capture, "'fl_x' of images/004.png in .* is missing, and there is none for all images")


@pytest.mark.parametrize("form", ["nerfstudio-data", "colmap"])
@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (2.5, -1.0, 0.3), (452311.2, 4128345.7, 312.5)])
def test_all_cameras_in_one_place(form, centre, tiny_capture):
    def gather(meta):
        for frame in meta["frames"]:
            for row, value in zip(frame["transform_matrix"], centre, strict=False):
                row[3] = value

    edit_transforms(tiny_capture, gather)
    parser = colmap_parser() if form == "colmap" else None
    refused(write_colmap_model(tiny_capture), "All 9 cameras of .* are in one place, as in a panorama", parser)


@pytest.mark.parametrize("form", ["nerfstudio-data", "colmap"])
def test_a_single_photograph(form, tiny_capture):
    edit_transforms(tiny_capture, lambda meta: meta.update(frames=meta["frames"][:1]))
    parser = colmap_parser() if form == "colmap" else None
    refused(write_colmap_model(tiny_capture), "holds only one photograph; at least two are needed", parser)


def test_a_narrow_base_is_warned_of(tiny_capture, capsys):
    def gather(meta):
        for frame in meta["frames"]:
            for row, value in zip(frame["transform_matrix"], (3.0, 0.0, 0.9), strict=False):
                row[3] = value + 1e-3 * row[3]

    data_manager(tiny_capture)
    assert "nearly in one place" not in printed(capsys)
    edit_transforms(tiny_capture, gather)
    data_manager(tiny_capture)
    assert "All 7 training cameras are nearly in one place" in printed(capsys)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_cut_colmap_model_is_named(name, share, tiny_capture):
    pycolmap = pytest.importorskip("pycolmap")
    model = write_colmap_model(tiny_capture) / "sparse/0"
    edited = (model / "points3D.txt").read_text().replace(" 1 0\n", "\n")
    (model / "points3D.txt").write_text(edited)
    (model / "images.txt").write_text((model / "images.txt").read_text().replace("1.0 1.0 -1\n", "\n"))
    pycolmap.Reconstruction(model).write_binary(str(model))
    for path in model.glob("*.txt"):
        path.unlink()
    data_manager(tiny_capture, colmap_parser())
    path = model / f"{name}.bin"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(tiny_capture, f"sparse/0/{name}.bin is cut short", colmap_parser())


def test_a_named_ply_that_is_missing(tiny_capture):
    (tiny_capture / "points.ply").unlink()
    refused(tiny_capture, "points.ply, which the capture names as its points, does not exist")


@pytest.mark.parametrize(
    "content", [b"", b"solid cube\n", b"ply\nformat ascii 1.0\nelement vertex 3\n", bytes(range(256))]
)
def test_a_named_ply_that_is_none(content, tiny_capture):
    (tiny_capture / "points.ply").write_bytes(content)
    refused(tiny_capture, "points.ply, which the capture names as its points, is no PLY")


def test_a_named_ply_that_is_cut_short_or_lacks_coordinates(tiny_capture):
    path = tiny_capture / "points.ply"
    whole = path.read_text()
    path.write_text("\n".join(whole.splitlines()[:-20]) + "\n")
    refused(tiny_capture, "points.ply, .* is cut short .*row 40")
    path.write_text(whole.replace("property float z", "property float depth"))
    refused(tiny_capture, "points.ply, .* lacks the properties z of its vertices")
    path.write_text(whole.replace("element vertex", "element face"))
    refused(tiny_capture, "points.ply, .* lacks vertices")


@pytest.mark.parametrize("kind", ["float", "double"])
def test_points_without_colours_start_gray(kind, tiny_capture, capsys):
    expected = data_manager(tiny_capture).train_dataparser_outputs.metadata["points3D_xyz"]
    header, rows = read_points(tiny_capture)
    header = [line.replace("float", kind) for line in header if "uchar" not in line]
    text = "\n".join([*header, *(" ".join(row[:3]) for row in rows)]) + "\n"
    (tiny_capture / "points.ply").write_text(text)
    metadata = data_manager(tiny_capture).train_dataparser_outputs.metadata
    assert printed(capsys).count("holds no colours, so that its 60 points start gray") == 1
    torch.testing.assert_close(metadata["points3D_xyz"], expected)
    assert (metadata["points3D_rgb"] == 128).all() and metadata["points3D_rgb"].shape == (60, 3)


@pytest.mark.parametrize(("kind", "largest"), [("float", 1.0), ("ushort", 65535), ("float", 255.0)])
def test_colours_of_other_types(kind, largest, tiny_capture):
    expected = data_manager(tiny_capture).train_dataparser_outputs.metadata["points3D_rgb"]
    header, rows = read_points(tiny_capture)
    header = [line.replace("uchar", kind) for line in header]
    scaled = [[*row[:3], *(repr(float(value) * largest / 255) for value in row[3:])] for row in rows]
    if kind == "ushort":
        scaled = [[*row[:3], *(str(round(float(value))) for value in row[3:])] for row in scaled]
    (tiny_capture / "points.ply").write_text("\n".join([*header, *map(" ".join, scaled)]) + "\n")
    found = data_manager(tiny_capture).train_dataparser_outputs.metadata["points3D_rgb"]
    assert (found.int() - expected.int()).abs().max() <= 1 and expected.max() > 200


def cloud(n: int = 200) -> dict:
    xyz = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return {"points3D_xyz": xyz, "points3D_rgb": torch.arange(n)[:, None].repeat(1, 3), "mask_color": None}


CENTRES = torch.eye(3)


@pytest.mark.parametrize("value", [1e5, 1e7, math.nan, math.inf])
def test_points_that_would_spoil_the_scene_are_left_out(value, capsys):
    metadata = cloud()
    metadata["points3D_xyz"][[3, 77], 1] = value
    found = usable_points(metadata, CENTRES)
    assert "2 of 200 structure-from-motion points are left out" in printed(capsys)
    assert len(found["points3D_xyz"]) == 198 and found["points3D_xyz"].abs().max() < 10
    assert found["points3D_rgb"][:4, 0].tolist() == [0, 1, 2, 4] and found["mask_color"] is None


def test_points_of_every_day_stay(capsys):
    metadata = cloud()
    metadata["points3D_xyz"][3] *= 300
    metadata["points3D_xyz"][50:60] = metadata["points3D_xyz"][60:70]
    assert usable_points(metadata, CENTRES) is metadata
    assert usable_points({}, CENTRES) == {} and printed(capsys) == ""


@pytest.mark.parametrize(("places", "left"), [(1, 0), (3, 0), (4, 4), (50, 50)])
def test_few_distinct_points(places, left, capsys):
    metadata = cloud()
    metadata["points3D_xyz"] = metadata["points3D_xyz"][:places].repeat(200 // places, 1)
    metadata["points3D_rgb"] = metadata["points3D_rgb"][: len(metadata["points3D_xyz"])]
    total = len(metadata["points3D_xyz"])
    assert len(usable_points(metadata, CENTRES)["points3D_xyz"]) == left
    assert f"{total - left} of {total} structure-from-motion points are left out" in printed(capsys)
