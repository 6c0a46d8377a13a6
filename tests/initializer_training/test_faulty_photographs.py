"""Exposure, shake and passers-by: what they change, and what they leave as it was photographed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.initializer_training.batches import fixed_batch
from l2o_splat.initializer_training.faulty_photographs import with_fault, with_passer_by, with_shake
from l2o_splat.initializer_training.options import FaultOptions
from tests.initializer_training.networks import SOURCE

NONE = FaultOptions(exposure_probability=0.0, shake_probability=0.0, passer_by_probability=0.0)
CLOTHES, SKIN = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def views():
    return fixed_batch(SOURCE.capture(0), 3, torch.device("cpu")).context


def changed(views, options, seed):
    """The views after faults, and which of them are another image."""
    after = with_fault(views, options, np.random.default_rng(seed))
    return after, (after.images != views.images).flatten(1).any(dim=1)


def test_another_exposure_is_that_of_one_image_alone(views):
    happened, gains = 0, []
    for seed in range(40):
        after, different = changed(views, replace(NONE, exposure_probability=0.5), seed)
        assert different.sum() <= 1
        if different.any():
            happened += 1
            inside = (views.images[different] > 0.1) & (after.images[different] < 1)
            ratio = (after.images[different] / views.images[different])[inside]
            torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-4, atol=0)
            gains.append(float(ratio[0]))
    assert 8 < happened < 32 and 0.75 <= min(gains) < 0.85 and 1.15 < max(gains) <= 1.25


def test_an_exposure_may_have_an_offset(views):
    options, found = replace(NONE, exposure_probability=1.0, exposure=(1.0, 1.0), exposure_offset=0.2), []
    for seed in range(8):
        images = changed(views, options, seed)[0].images
        inside = (images > 0) & (images < 1)
        change = (images - views.images)[inside & (images != views.images)]
        assert change.std() < 1e-5 and 0 < change.abs().max() <= 0.2
        found.append(float(change.mean()))
    assert min(found) < -0.05 and max(found) > 0.05


@pytest.mark.parametrize("angle", [0.0, math.pi / 2])
def test_a_shake_smears_along_its_line_and_not_across(views, angle):
    image = torch.zeros_like(views.images[0])
    row, column = image.shape[0] // 2, image.shape[1] // 2
    image[row, column] = 1.0
    point = replace(views, images=torch.stack([image] * len(views.images)))
    smeared = with_shake(point, 1, 8.0, angle).images
    assert torch.equal(smeared[0], image)
    assert smeared[1].sum() == pytest.approx(3, rel=1e-3)
    rows, columns = (smeared[1].sum(dim=(axis, 2)).nonzero() for axis in (1, 0))
    along, across = (columns, rows) if angle == 0 else (rows, columns)
    assert 8 <= along.max() - along.min() <= 10
    assert across.max() - across.min() <= 1


def test_a_photograph_of_one_colour_shows_no_shake(views):
    plain = replace(views, images=torch.full_like(views.images, 0.4))
    torch.testing.assert_close(with_shake(plain, 0, 6.0, 1.0).images, plain.images)


def test_a_passer_by_stands_on_the_lower_edge_and_hides_what_is_behind(views):
    height, width = views.images.shape[1:3]
    after = with_passer_by(views, 0, 0.5, 0.5, CLOTHES, SKIN).images
    hidden = (after[0] != views.images[0]).any(dim=2)
    rows, columns = (hidden.any(dim=axis).nonzero() for axis in (1, 0))
    assert rows.max() == height - 1 and abs(int(rows.min()) - height / 2) <= 2
    assert abs(float(columns.float().mean()) - width / 2) <= 1
    assert torch.equal(after[0][height - 3, width // 2], CLOTHES)
    assert torch.equal(after[0][round(height * 0.5 + 0.5 * height * 0.08), width // 2], SKIN)
    assert torch.equal(after[1:], views.images[1:])


def test_each_fault_happens_as_often_as_its_probability_says(views):
    for name in ("shake_probability", "passer_by_probability"):
        options = replace(NONE, **{name: 0.5})
        happened = [int(changed(views, options, seed)[1].sum()) for seed in range(40)]
        assert set(happened) == {0, 1} and 8 < sum(happened) < 32, name
    assert not changed(views, NONE, 0)[1].any()


@pytest.mark.parametrize(
    "wrong, said",
    [({"shake_probability": 1.5}, "faults.shake_probability is 1.5"), ({"exposure": (0.0, 1.0)}, "above 0")],
)
def test_faults_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        FaultOptions(**wrong)
