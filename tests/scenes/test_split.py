"""Splits into training views and held-out views."""

import numpy as np
import pytest

from l2o_splat.scenes.split import SplitError, split_views


def test_dense_holds_out_every_eighth_view():
    training, held_out = split_views(np.zeros((20, 3)), "all")
    assert held_out == [0, 8, 16]
    assert sorted(training + held_out) == list(range(20))


def test_sparse_takes_farthest_context_views_and_targets_between_them():
    line = np.zeros((13, 3))
    line[:, 0] = range(13)
    # Ends first, then the middle; between each pair the view in the middle.
    assert split_views(line, 3) == ([0, 6, 12], [3, 9])
    assert split_views(line, 2) == ([0, 12], [6])


@pytest.mark.parametrize(("count", "views"), [(5, 5), (2, "all"), (4, 3)])
def test_a_split_that_leaves_nothing_is_refused(count, views):
    centres = np.zeros((count, 3))
    centres[:, 0] = [0, 3, 2, 1, 4][:count]
    with pytest.raises(SplitError):
        split_views(centres, views)
