"""Georeferenced captures are centred in float64; ordinary ones are read as nerfstudio reads them, bit for bit."""

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.large_coordinates import OFFSET, check_rounding, large_offset
from tests.plugin.captures import (
    colmap_parser,
    data_manager,
    edit_transforms,
    read_points,
    shift_capture,
    write_colmap_model,
    write_tiny_capture,
)
from tests.plugin.console import printed

UTM, ECEF = (452311.2, 4128345.7, 312.5), (4510731.7, 612345.9, 4449212.4)
FORMS = ["nerfstudio-data", "applied transform", "colmap"]


def write(folder, form, offset):
    capture = write_tiny_capture(folder)
    if form == "applied transform":
        edit_transforms(capture, lambda meta: meta.update(applied_transform=APPLIED))
    shift_capture(capture, offset)
    return write_colmap_model(capture) if form == "colmap" else capture


APPLIED = [[0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]


def outputs(capture, form):
    return data_manager(capture, colmap_parser() if form == "colmap" else None).train_dataparser_outputs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offset", [UTM, ECEF], ids=["utm", "ecef"])
def test_a_georeferenced_capture_is_the_one_at_the_origin(form, offset, tmp_path, capsys):
    expected = outputs(write(tmp_path / "near", form, (0.0, 0.0, 0.0)), form)
    assert OFFSET not in expected.metadata and expected.dataparser_transform.dtype == torch.float32
    assert "too large" not in printed(capsys)
    far = write(tmp_path / "far", form, offset)
    found = outputs(far, form)
    assert printed(capsys).count("too large for float32") == 1
    for name in ("points3D_xyz", "points3D_rgb"):
        torch.testing.assert_close(found.metadata[name], expected.metadata[name], rtol=0, atol=2e-6)
    poses = found.cameras.camera_to_worlds
    torch.testing.assert_close(poses, expected.cameras.camera_to_worlds, rtol=0, atol=2e-6)
    # The transform and scale that are saved lead from the original coordinates to those of the scene.
    original = np.array([row[:3] for row in read_points(far)[1]], np.float64)
    if form == "applied transform":
        original = np.linalg.solve(np.array(APPLIED)[:, :3], (original - np.array(APPLIED)[:, 3]).T).T
    transform = found.dataparser_transform
    assert transform.dtype == torch.float64
    scene = found.dataparser_scale * (torch.from_numpy(original) @ transform[:, :3].T + transform[:, 3])
    torch.testing.assert_close(scene.float(), found.metadata["points3D_xyz"], rtol=0, atol=2e-5)
    back = found.transform_poses_to_original_space(poses, "opengl")[:, :, 3]
    forth = found.dataparser_scale * (back @ transform[:, :3].T + transform[:, 3])
    torch.testing.assert_close(forth.float(), poses[:, :, 3], rtol=0, atol=2e-5)
    assert float(back.abs().max()) > 4e5


@pytest.mark.parametrize("form", FORMS)
def test_an_ordinary_capture_is_read_as_by_nerfstudio(form, tmp_path):
    capture = write(tmp_path / "capture", form, (1.5, -2.0, 0.7))
    config = colmap_parser() if form == "colmap" else NerfstudioDataParserConfig(load_3D_points=True)
    config.data, config.eval_mode = capture, "interval"
    stock, ours = config.setup().get_dataparser_outputs("train"), outputs(capture, form)
    assert torch.equal(ours.cameras.camera_to_worlds, stock.cameras.camera_to_worlds)
    assert torch.equal(ours.cameras.fx, stock.cameras.fx) and ours.image_filenames == stock.image_filenames
    assert torch.equal(ours.dataparser_transform, stock.dataparser_transform)
    assert ours.dataparser_scale == stock.dataparser_scale
    for name in ("points3D_xyz", "points3D_rgb"):
        assert torch.equal(ours.metadata[name], stock.metadata[name])


def test_the_offset_is_a_short_number_near_the_cameras():
    centres = np.random.default_rng(0).normal(size=(20, 3))
    assert large_offset(centres) is None and large_offset(centres + np.array([30.0, 0, 0])) is None
    offset = large_offset(centres * 25 + ECEF)
    assert np.array_equal(offset, np.round(offset, -2)) and np.linalg.norm(offset - ECEF) < 100
    # Kilometres: the same cameras in other units.
    kilometres = large_offset((centres * 25 + ECEF) / 1000)
    np.testing.assert_allclose(kilometres, offset / 1000, atol=0.03)
    # Dense cameras of a video, not far from the origin in terms of their reach.
    line = np.linspace([0, 0, 0], [10, 0, 0], 100_000)
    assert large_offset(line) is None and large_offset(line + np.array([500.0, 0, 0])) is not None


@pytest.mark.parametrize("offset", [UTM, ECEF])
def test_other_dataparsers_refuse_what_float32_cannot_hold(offset, tmp_path):
    near = outputs(write_tiny_capture(tmp_path / "capture"), "nerfstudio-data")
    centres = near.cameras[:4]

    def as_read(shift):
        cameras = type(centres)(**{**vars_of(centres), "camera_to_worlds": centres.camera_to_worlds.clone()})
        cameras.camera_to_worlds[:, :, 3] += torch.tensor(shift)
        return DataparserOutputs(near.image_filenames[:4], cameras)

    check_rounding(as_read((100.0, 100.0, 0.0)), "Blender")
    with pytest.raises(CaptureError, match="which Blender rounds to float32.*subtract an offset"):
        check_rounding(as_read(offset), "Blender")


def vars_of(cameras):
    return {name: getattr(cameras, name) for name in ("fx", "fy", "cx", "cy", "width", "height")}
