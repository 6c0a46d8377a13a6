"""Which Gaussians of a prediction a scene does without."""

import torch

from l2o_splat.growth.prune import confirmed


def test_gaussians_that_two_views_see_are_confirmed():
    assert confirmed(torch.tensor([0, 1, 2, 3, 2, 4])).tolist() == [False, False, True, True, True, True]


def test_at_most_half_of_a_scene_goes_and_what_more_views_see_stays():
    assert confirmed(torch.tensor([1, 0, 1, 0, 5, 1])).tolist() == [False, False, True, False, True, True]
    assert confirmed(torch.zeros(5, dtype=torch.long)).sum() == 3
