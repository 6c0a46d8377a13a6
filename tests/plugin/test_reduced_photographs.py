"""Steps at a smaller scale: which photographs and cameras the data manager hands out, and what it keeps of them."""

import gc
import weakref

import pytest
import torch

from l2o_splat.reduction import reduced_photograph
from tests.plugin.captures import data_manager
from tests.plugin.noise_capture import write_noise

BLACK = torch.zeros(3)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_step_sees_reduced_photographs_of_the_same_views(tiny_capture, masks, alpha):
    write_noise(tiny_capture, masks=masks, alpha=alpha)
    manager = data_manager(tiny_capture)
    (full,), (found,) = (manager.next_train_photographs(3, BLACK, scale) for scale in (1.0, 0.5))
    assert (found.cameras.width, found.cameras.height) == (96, 72)
    assert found.cameras.viewmats.equal(full.cameras.viewmats)
    assert found.cameras.Ks.equal(full.cameras.Ks * torch.tensor([0.5, 0.5, 1.0])[:, None])
    for v in range(len(full)):
        mask = None if full.masks is None else full.masks[v]
        pixels, mask = reduced_photograph(full.stored[v], mask, 96, 72)
        assert found.stored[v].equal(pixels)
        assert (found.masks is None) == (not masks) and (not masks or found.masks[v].equal(mask))
    found.views()  # Shapes fit.


def test_what_is_handed_out_depends_on_the_arguments_alone(tiny_capture):
    write_noise(tiny_capture, sizes=((192, 144), (180, 150)))
    order = [(0, 0.5), (1, 0.5), (1, 1.0), (0, 0.5), (2, 2 / 3), (1, 2 / 3), (1, 0.5), (1, 1.0)]
    manager = data_manager(tiny_capture)
    for step, scale in order:
        found = manager.next_train_photographs(step, BLACK, scale)
        fresh = data_manager(tiny_capture).next_train_photographs(step, BLACK, scale)
        assert len(found) == len(fresh) == 2
        for group, again in zip(found, fresh, strict=True):
            views, views_again = group.views(), again.views()
            assert views.images.equal(views_again.images) and views.cameras.Ks.equal(views_again.cameras.Ks)


def test_each_photograph_is_made_once_and_let_go_with_its_scale(tiny_capture):
    write_noise(tiny_capture)
    manager = data_manager(tiny_capture)
    first = manager.train_photographs([0, 1], BLACK, 0.5)
    assert first.stored[0] is not manager.train_photographs([0], BLACK, 0.5).stored[0]  # No step is at this scale.
    (step,) = manager.next_train_photographs(0, BLACK, 0.5)
    (again,) = manager.next_train_photographs(0, BLACK, 0.5)
    assert all(one is other for one, other in zip(step.stored, again.stored, strict=True))
    held = weakref.ref(step.stored[0])
    del step, again
    gc.collect()
    assert held() is not None
    manager.next_train_photographs(1, BLACK, 1.0)
    gc.collect()
    assert held() is None


def test_one_scale_for_all_photographs(tiny_capture):
    """The smallest ones say how far a step may go, so that what is blurred at the scale is blurred in all."""
    write_noise(tiny_capture, sizes=((192, 144), (256, 128)))
    manager = data_manager(tiny_capture)
    assert manager.usable_scale(0.25) == 0.5 and manager.usable_scale(0.75) == 0.75
    sizes = [(group.cameras.width, group.cameras.height) for group in manager.next_train_photographs(0, BLACK, 0.25)]
    assert sorted(sizes) == [(96, 72), (128, 64)]


def test_small_photographs_stay_as_they_are(tiny_capture):
    manager = data_manager(tiny_capture)
    assert manager.usable_scale(0.25) == 1.0
    (group,) = manager.next_train_photographs(0, BLACK, 0.25)
    assert (group.cameras.width, group.cameras.height) == (48, 36)
