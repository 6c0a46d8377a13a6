"""Exposure compensation by itself: what it learns of images whose scene does not move."""

import pytest
import torch

from l2o_splat.losses import photometric_loss
from l2o_splat.optim.exposure import ExposureCompensation
from l2o_splat.rendering.exposure import exposed
from l2o_splat.scenes.procedural import ProceduralOptions, generate

NAMES = [f"{i}.png" for i in range(5)]


@pytest.fixture(scope="module")
def views():
    return generate(7, ProceduralOptions(num_views=5, width=48, height=36, num_points=50)).views


def learn(exposure, views, photographs, steps, first_step=0, budget=200):
    """Let a compensation see photographs of a scene that is drawn without fault."""
    for step in range(first_step, first_step + steps):
        (shown,) = exposure.put_on([views])
        photometric_loss(exposed(shown.images, shown.exposures), photographs).backward()
        exposure.step(step / budget)
    return exposure


def with_indices(views, *indices):
    chosen = views[list(indices)]
    return type(chosen)(chosen.cameras, chosen.images, indices=indices)


def test_it_recovers_the_factor_of_one_photograph(views):
    shown = with_indices(views, *range(5))
    factors = torch.ones(5)
    factors[3] = 1.2
    exposure = learn(ExposureCompensation(NAMES, "cpu"), shown, shown.images * factors[:, None, None, None], 200)
    torch.testing.assert_close(exposure.gains, factors, atol=0.01, rtol=0)
    gains = exposure.transforms.detach().diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(gains, factors[:, None].expand(5, 3), atol=0.04, rtol=0)


def test_colours_of_the_scene_have_no_freedom(views):
    """All photographs are brighter than the scene; it is the scene that has to become brighter."""
    shown = with_indices(views, *range(5))
    exposure = ExposureCompensation(NAMES, "cpu")
    for _ in range(20):
        learn(exposure, shown, 1.2 * shown.images, 1)
        middle = exposure.transforms.detach().median(dim=0).values
        torch.testing.assert_close(middle, torch.eye(3, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(exposure.gains, torch.ones(5), atol=0.05, rtol=0)


def test_photographs_that_no_step_shows_stay(views):
    exposure = ExposureCompensation(NAMES, "cpu")
    shown = with_indices(views, 1, 4)
    learn(exposure, shown, 1.2 * shown.images, 5)
    assert torch.equal(exposure.transforms[[0, 2, 3]], torch.eye(3, 4).expand(3, 3, 4))
    assert (exposure.gains[[1, 4]] > 1.02).all()


def test_a_gradient_that_is_not_finite_moves_nothing(views):
    exposure = ExposureCompensation(NAMES, "cpu")
    gradient = torch.ones(5, 3, 4)
    gradient[2, 0, 1], gradient[0] = torch.nan, 0
    exposure.transforms.grad = gradient
    exposure.step(0.0)
    assert exposure.transforms.isfinite().all() and exposure.transforms.grad is None
    # 0 and 2 lie above the three that have moved down, whose median is the identity.
    assert torch.equal(exposure.transforms[0], exposure.transforms[2])
    assert exposure._ages.flatten().tolist() == [0, 1, 0, 1, 1]


def test_going_on_from_a_saved_state_is_going_on(views):
    shown = with_indices(views, *range(5))
    photographs = shown.images * torch.linspace(0.8, 1.2, 5)[:, None, None, None]
    whole = learn(ExposureCompensation(NAMES, "cpu"), shown, photographs, 12)
    first = learn(ExposureCompensation(NAMES, "cpu"), shown, photographs, 7)
    resumed = ExposureCompensation(NAMES, "cpu")
    resumed.load(first.state())
    learn(resumed, shown, photographs, 5, first_step=7)
    assert torch.equal(resumed.transforms, whole.transforms)


def test_transforms_follow_their_photographs_into_a_changed_capture(views):
    shown = with_indices(views, *range(5))
    photographs = shown.images * torch.linspace(0.8, 1.2, 5)[:, None, None, None]
    before = learn(ExposureCompensation(NAMES, "cpu"), shown, photographs, 20)
    after = ExposureCompensation(["4.png", "new.png", "0.png"], "cpu")
    after.load(before.state())
    assert torch.equal(after.transforms[[0, 2]], before.transforms[[4, 0]])
    assert torch.equal(after.transforms[1], torch.eye(3, 4))


def test_photographs_without_a_place_are_refused(views):
    with pytest.raises(ValueError, match="The photographs have no indices"):
        ExposureCompensation(NAMES, "cpu").put_on([views])


def test_outliers_alone_keep_their_transforms(views):
    shown = with_indices(views, *range(5))
    factors = torch.tensor([0.96, 1.0, 1.04, 1.2, 1.0])
    exposure = ExposureCompensation(NAMES, "cpu", only_outliers=True)
    photographs = shown.images * factors[:, None, None, None]
    learn(exposure, shown, photographs, 50)
    # Until 0.3 of the budget all are learnt.
    assert (exposure.gains[[0, 2]] - 1).abs().min() > 0.02
    learn(exposure, shown, photographs, 100, first_step=50)
    torch.testing.assert_close(exposure.gains[3], factors[3], atol=0.02, rtol=0)
    assert torch.equal(exposure.transforms[[0, 1, 2, 4]], torch.eye(3, 4).expand(4, 3, 4))


def test_photographs_that_are_alike_are_compared_as_they_are(views):
    shown = with_indices(views, *range(5))
    exposure = ExposureCompensation(NAMES, "cpu", only_outliers=True)
    photographs = shown.images * torch.linspace(0.96, 1.04, 5)[:, None, None, None]
    learn(exposure, shown, photographs, 62)
    assert torch.equal(exposure.put_on([shown])[0].exposures, torch.eye(3, 4).expand(5, 3, 4))
    assert "No training photograph is over 10 % brighter" in exposure.describe()


def test_nothing_is_said_of_photographs_that_few_steps_have_shown(views):
    """Their transforms have not moved far enough to tell."""
    shown = with_indices(views, *range(5))
    photographs = shown.images * torch.tensor([1.0, 1.0, 1.0, 1.4, 1.0])[:, None, None, None]
    exposure = learn(ExposureCompensation(NAMES, "cpu", only_outliers=True), shown, photographs, 8, budget=10)
    assert 1.03 < exposure.gains[3] < 1.1
    assert "and 1.0" in exposure.describe() and "(3.png) times as bright" in exposure.describe()
    learn(exposure, shown, photographs, 60, first_step=8, budget=68)
    assert exposure.gains[3] > 1.2
    assert torch.equal(exposure.transforms[[0, 1, 2, 4]], torch.eye(3, 4).expand(4, 3, 4))


def test_outliers_go_on_from_a_saved_state(views):
    shown = with_indices(views, *range(5))
    photographs = shown.images * torch.tensor([1.0, 0.97, 1.03, 1.3, 1.0])[:, None, None, None]

    def new():
        return ExposureCompensation(NAMES, "cpu", only_outliers=True)

    whole = learn(new(), shown, photographs, 80)
    resumed = new()
    resumed.load(learn(new(), shown, photographs, 65).state())
    learn(resumed, shown, photographs, 15, first_step=65)
    assert torch.equal(resumed.transforms, whole.transforms)
