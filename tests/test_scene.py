import math

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.scene import SceneKnowledge, SceneStart, scene_extent


def test_the_extent_is_that_of_gsplats_trainer():
    centres = torch.tensor([[0.0, 0, 0], [4.0, 0, 0], [2.0, 1, 0]])
    assert scene_extent(centres) == pytest.approx(1.1 * math.hypot(2, 1 / 3))
    assert SceneKnowledge(centres).extent == scene_extent(centres)
    assert SceneKnowledge(centres[:1]).extent == 1, "all cameras in one place"


def test_a_start_is_taken_row_by_row():
    gaussians = Gaussians.unpack(torch.arange(5.0)[:, None].repeat(1, 14))
    start = SceneStart(
        gaussians, features=torch.arange(5.0)[:, None], precision=torch.arange(5.0)[:, None].repeat(1, 5)
    )
    for index in (torch.tensor([3, 1]), slice(1, 3)):
        taken = start.at(index)
        assert torch.equal(taken.features[:, 0], taken.gaussians.means[:, 0])
        assert torch.equal(taken.precision[:, 4], taken.gaussians.means[:, 0]) and len(taken.gaussians) == 2
    bare = SceneStart(gaussians).at(torch.tensor([0]))
    assert bare.features is bare.precision is bare.context is None
