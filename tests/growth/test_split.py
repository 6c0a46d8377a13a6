"""Splitting one Gaussian into two: what is kept, against closed forms, quadrature and the reference renderer."""

import math
from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.split import child_opacity, split_longest_axis
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import render
from l2o_splat.rotations import rotate
from tests.rendering.scenes import merge, random_scene


def covariances(gaussians: Gaussians) -> torch.Tensor:
    """World covariances [n 3 3]."""
    units = torch.eye(3, dtype=torch.float64)[:, None].expand(3, len(gaussians), 3)
    axes = rotate(gaussians.quats.expand(3, -1, 4), units).movedim(0, 2)
    axes = axes * gaussians.scales.exp()[:, None]
    return axes @ axes.mT


@pytest.mark.parametrize("shift", [0.3, 0.7, 0.9])
def test_two_children_together_have_mean_and_covariance_of_their_parent(shift):
    parents, _ = random_scene(n=20, dtype=torch.float64)
    children = split_longest_axis(parents, shift)

    pairs = children.means.unflatten(0, (20, 2))
    assert torch.allclose(pairs.mean(1), parents.means, atol=1e-12)
    spread = (pairs - pairs.mean(1, keepdim=True)).unsqueeze(-1)
    together = covariances(children).unflatten(0, (20, 2)).mean(1) + (spread @ spread.mT).mean(1)
    assert torch.allclose(together, covariances(parents), rtol=1e-9, atol=1e-12)


def test_children_have_rotation_and_colour_of_their_parent_and_a_shorter_longest_axis():
    parents, _ = random_scene(n=20, dtype=torch.float64)
    children = split_longest_axis(parents, 0.6)

    for name in ("quats", "features_dc", "features_rest"):
        assert torch.equal(getattr(children, name), getattr(parents, name).repeat_interleave(2, 0))
    ratios = (children.scales - parents.scales.repeat_interleave(2, 0)).exp()
    longest = parents.scales.argmax(1).repeat_interleave(2)
    assert torch.allclose(ratios.gather(1, longest[:, None])[:, 0], torch.full((40,), 0.8, dtype=torch.float64))
    assert torch.allclose(ratios.sum(1), torch.full((40,), 2.8, dtype=torch.float64))


@pytest.mark.parametrize("opacity", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("shift", [0.4, 0.7])
def test_children_cover_as_much_as_their_parent(opacity, shift):
    """The sum of alpha over a fine grid of the image plane, by quadrature."""
    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    length = math.sqrt(1 - shift**2)
    of_child = float(child_opacity(torch.tensor(opacity, dtype=torch.float64), shift))

    def alpha(at):
        return of_child * (-((x - at) ** 2) / (2 * length**2) - y**2 / 2).exp()

    left, right = alpha(-shift), alpha(shift)
    assert float((left + right - left * right).sum()) == pytest.approx(
        float((opacity * (-(x**2 + y**2) / 2).exp()).sum()), rel=1e-6
    )


def test_the_image_stays_nearly_as_it_was():
    """30 of 150 Gaussians are replaced; cloning them makes their spots twice as opaque."""
    scene, cameras = random_scene(n=150, width=48, height=36)
    chosen = torch.arange(0, 150, 5)
    rest = torch.ones(150, dtype=torch.bool).index_fill(0, chosen, False)

    def image(gaussians):
        return render(gaussians, cameras, RasterSettings(image_rules="1.5"), "reference").rgb

    def change(children):
        return float((image(merge(scene[rest], children)) - image(scene)).square().mean().sqrt())

    naive = change(merge(scene[chosen], scene[chosen]))
    assert naive > 0.02
    assert change(split_longest_axis(scene[chosen])) < 0.3 * naive


def test_an_opaque_parent_has_children_of_finite_logits():
    scene, _ = random_scene(n=3)
    for opacity in (20.0, -20.0):
        parents = replace(scene, opacities=torch.full((3, 1), opacity))
        assert not split_longest_axis(parents).count_non_finite()


def test_nothing_is_split_into_nothing():
    scene, _ = random_scene(n=3)
    assert len(split_longest_axis(scene[:0])) == 0
