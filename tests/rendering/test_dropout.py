"""What a step sees of a scene when some Gaussians are left out."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.rendering import RasterSettings, render
from l2o_splat.rendering.dropout import HIGHEST_OPACITY, dropped
from l2o_splat.rendering.rendered_loss import rendered_loss
from tests.rendering.test_rendered_loss import leaves_of, scene_and_photographs


def test_nothing_is_left_out_at_a_share_of_0():
    gaussians, _ = scene_and_photographs()
    assert dropped(gaussians, 0.0, seed=3, step=0) is gaussians


def test_so_many_are_left_out_and_the_others_are_as_many_times_as_opaque():
    gaussians, _ = scene_and_photographs()
    opacities = torch.linspace(0.01, 0.99, 20_000)[:, None]
    many = replace(gaussians[torch.zeros(20_000, dtype=torch.long)], opacities=torch.logit(opacities))
    seen = torch.sigmoid(dropped(many, 0.25, seed=3, step=0).opacities)
    left_out = seen < 1e-6
    assert left_out.float().mean() == pytest.approx(0.25, abs=0.01)
    expected = (opacities / 0.75).clamp(max=HIGHEST_OPACITY)
    torch.testing.assert_close(seen[~left_out], expected[~left_out])
    transparent = opacities < 0.7
    assert seen[transparent].mean() == pytest.approx(opacities[transparent].mean().item(), rel=0.02)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_image_is_that_of_the_others_alone_and_what_is_left_out_has_no_gradient(backend):
    gaussians, photographs = scene_and_photographs()
    leaves = leaves_of(gaussians)
    seen = dropped(gaussians, 0.4, seed=3, step=0)
    kept = seen.opacities[:, 0] > -10
    assert 0 < kept.sum() < len(gaussians)
    cameras = photographs.cameras
    torch.testing.assert_close(
        render(seen, cameras, backend=backend).rgb, render(seen[kept], cameras, backend=backend).rgb
    )
    loss = rendered_loss(seen, photographs, RasterSettings(), backend=backend).loss
    for gradient in torch.autograd.grad(loss, leaves):
        assert gradient[kept].any() and not gradient[~kept].any()


def test_the_draw_follows_from_seed_and_step():
    gaussians, _ = scene_and_photographs()
    first, again, next_step = (dropped(gaussians, 0.5, seed=3, step=step).opacities for step in (4, 4, 5))
    assert torch.equal(first, again) and not torch.equal(first, next_step)


def test_shares_out_of_range_are_refused():
    gaussians, _ = scene_and_photographs()
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="0 or more and less than 1"):
            dropped(gaussians, share, seed=3, step=0)
