"""Photographs that differ as those of real places do."""

from dataclasses import replace

import torch

from l2o_splat.scenes.imperfections import Imperfections, softened
from l2o_splat.scenes.procedural import ProceduralOptions, generate

CAPTURE = generate(3, ProceduralOptions(num_views=12, width=64, height=48, num_points=50))
TRAINING = [1, 2, 3, 5, 6, 7, 9, 10, 11]


def test_views_that_are_held_out_stay_as_they_are():
    spoilt = Imperfections().spoil(CAPTURE, TRAINING, seed=0)
    for view in range(12):
        same = [
            torch.equal(spoilt.views.images[view], CAPTURE.views.images[view]),
            torch.equal(spoilt.views.cameras.viewmats[view], CAPTURE.views.cameras.viewmats[view]),
        ]
        assert same == ([False] * 2 if view in TRAINING else [True] * 2)
    again, other = (Imperfections().spoil(CAPTURE, TRAINING, seed=seed) for seed in (0, 1))
    assert torch.equal(again.views.images, spoilt.views.images)
    assert not torch.equal(other.views.images, spoilt.views.images)


def test_exposure_multiplies_a_photograph_and_noise_is_as_strong_as_it_is_said_to_be():
    brighter = (
        Imperfections(exposure=0.05, tint=0.0, shading=0.0, noise=0.0, pose=0.0).spoil(CAPTURE, TRAINING, 0).views
    )
    for view in TRAINING:
        image, usual = brighter.images[view], CAPTURE.views.images[view]
        inside = (usual > 0.05) & (image < 1)
        ratios = (image / usual)[inside]
        assert ratios.std() < 1e-5 and 0.8 < ratios.mean() < 1.25 and abs(ratios.mean() - 1) > 1e-4
    assert torch.allclose(brighter.cameras.viewmats, CAPTURE.views.cameras.viewmats, atol=1e-6)
    noisy = (
        Imperfections(exposure=0.0, tint=0.0, shading=0.0, noise=0.02, pose=0.0)
        .spoil(CAPTURE, TRAINING, 0)
        .views.images
    )
    usual = CAPTURE.views.images
    inside = (usual[TRAINING] > 0.1) & (usual[TRAINING] < 0.9)
    assert abs(float((noisy[TRAINING] - usual[TRAINING])[inside].std()) - 0.02) < 1e-3


def test_shading_changes_smoothly_over_a_photograph_and_by_as_much_as_it_is_said_to():
    shaded = replace(Imperfections().times(0.0), shading=0.05).spoil(CAPTURE, TRAINING, 0)
    image, usual = shaded.views.images[TRAINING], CAPTURE.views.images[TRAINING]
    factors = torch.where((usual > 0.05) & (image < 1), (image / usual).log(), torch.nan)
    assert 0.02 < float(factors[~factors.isnan()].std()) < 0.08
    across = (factors[:, :, 1:] - factors[:, :, :-1]).abs()
    assert float(across[~across.isnan()].max()) < 0.03


def test_softened_photographs_keep_their_brightness_and_lose_their_detail():
    assert softened(CAPTURE, 0.0) is CAPTURE
    soft, sharp = softened(CAPTURE, 2.0).views.images, CAPTURE.views.images
    assert soft.shape == sharp.shape and abs(float(soft.mean() - sharp.mean())) < 0.01

    def detail(images):
        return float((images[:, :, 1:] - images[:, :, :-1]).abs().mean())

    assert detail(soft) < 0.6 * detail(sharp)


def test_cameras_turn_about_their_own_centres_by_some_tenths_of_a_pixel():
    cameras, moved = CAPTURE.views.cameras, Imperfections(pose=0.4).spoil(CAPTURE, TRAINING, 0).views.cameras
    assert torch.allclose(moved.centres, cameras.centres, atol=1e-4)
    turned = moved.viewmats[TRAINING, :3, :3] @ cameras.viewmats[TRAINING, :3, :3].transpose(1, 2)
    assert torch.allclose(turned @ turned.transpose(1, 2), torch.eye(3), atol=1e-5)
    angles = torch.stack([turned[:, 2, 1], turned[:, 0, 2], turned[:, 1, 0]], dim=1)
    pixels = angles * cameras.Ks[0, 0, 0]
    assert 0.25 < pixels.std() < 0.55
