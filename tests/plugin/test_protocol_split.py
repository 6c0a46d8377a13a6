"""The protocol's split: which views are trained on, and which points a run with few of them may start from."""

from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from l2o_splat.plugin.protocol_split import ProtocolDataParser

POINTS = {
    "before both outer cameras": (2.0, 0.0, -8.0),
    "before one of them": (0.0, 0.0, -2.0),
    "before the one in the middle": (2.0, 0.0, -2.0),
    "behind all": (2.0, 0.0, 8.0),
}


class Row:
    """A parser of five cameras in a row, a unit apart. Each looks along -z; at depth 1 it sees 0.5 to each side."""

    includes_time = False

    def get_dataparser_outputs(self, split):
        views = [0, 1, 2, 3, 4] if split == "train" else [2]
        poses = torch.eye(4)[:3].repeat(len(views), 1, 1)
        poses[:, 0, 3] = torch.tensor(views, dtype=torch.float32)
        return DataparserOutputs(
            image_filenames=[Path(f"{view}.png") for view in views],
            cameras=Cameras(poses, fx=100.0, fy=100.0, cx=50.0, cy=50.0, width=100, height=100),
            scene_box=SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]])),
            metadata={
                "points3D_xyz": torch.tensor(list(POINTS.values())),
                "points3D_rgb": torch.arange(12, dtype=torch.uint8).reshape(4, 3),
            },
        )


@pytest.mark.parametrize("split", ["train", "val"])
def test_sparse_runs_start_from_points_that_two_context_views_can_see(split):
    outputs = ProtocolDataParser(Row(), 2).get_dataparser_outputs(split)
    assert [name.stem for name in outputs.image_filenames] == (["0", "4"] if split == "train" else ["2"])
    torch.testing.assert_close(outputs.metadata["points3D_xyz"], torch.tensor([POINTS["before both outer cameras"]]))
    assert outputs.metadata["points3D_rgb"].tolist() == [[0, 1, 2]]


def test_dense_runs_start_from_all_points():
    outputs = ProtocolDataParser(Row(), "all").get_dataparser_outputs("train")
    assert [name.stem for name in outputs.image_filenames] == ["1", "2", "3", "4"]
    assert len(outputs.metadata["points3D_xyz"]) == len(outputs.metadata["points3D_rgb"]) == 4
