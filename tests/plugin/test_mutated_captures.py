"""Hundreds of broken captures: each loads with finite, checked content, or is refused in one sentence."""

import copy

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.plugins.registry import discover_methods

from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.plugin.capture_checks import CaptureError
from tests.plugin.captures import write_tiny_capture
from tests.plugin.mutations import MUTATIONS, broken_colmap, colmap_model, copy_of


def load(folder, colmap: bool) -> None:
    """Read a capture as ``ns-train`` does, and check what it gives."""
    config = copy.deepcopy(discover_methods()[0]["l2o-adam"].pipeline.datamanager)
    if colmap:
        config.dataparser = ColmapDataParserConfig(colmap_path="sparse/0", downscale_factor=1)
    config.data, config.views_per_step = folder, 3
    manager = config.setup(device="cpu", test_mode="val")
    background = torch.zeros(3)
    views = manager.next_train_views(0, background)
    for group in views:
        assert torch.isfinite(group.images).all() and group.images.min() >= 0 and group.images.max() <= 1
        assert torch.isfinite(group.cameras.viewmats).all() and torch.isfinite(group.cameras.Ks).all()
        assert (group.cameras.Ks[:, 0, 0] > 0).all() and group.images.std() > 0
        rotations = group.cameras.viewmats[:, :3, :3]
        torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), rtol=0, atol=1e-2)
        if group.masks is not None:
            assert group.masks.unique().tolist() in ([0.0, 1.0], [1.0], [0.0])
    metadata = manager.train_dataparser_outputs.metadata
    points = metadata.get("points3D_xyz")
    if points is not None and len(points):
        assert not gaussians_from_points(points, metadata["points3D_rgb"]).count_non_finite()


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = write_tiny_capture(tmp_path_factory.mktemp("whole") / "capture")
    colmap_model(folder)
    return folder


def test_unbroken_it_loads_in_both_formats(capture):
    load(capture, colmap=False)
    load(capture, colmap=True)


def test_broken_captures_load_with_checked_content_or_are_refused_in_one_sentence(capture, tmp_path):
    outcomes = {"loaded": 0, "refused": 0}
    for mutate, times in MUTATIONS:
        for seed in range(times):
            folder = copy_of(capture, tmp_path / "broken")
            what = mutate(folder, np.random.default_rng([seed, len(mutate.__name__)]))
            # Shown if any other error, or wrong content, ends the test.
            print(f"{mutate.__name__} {seed}: {what}")
            try:
                load(folder, colmap=mutate is broken_colmap)
                outcomes["loaded"] += 1
            except CaptureError as error:
                outcomes["refused"] += 1
                assert "\n" not in str(error).strip() and len(str(error)) < 600
    assert sum(outcomes.values()) >= 300 and min(outcomes.values()) > 50, outcomes
