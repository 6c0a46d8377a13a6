"""The recurrent update as a rule: pure, in any world frame, and honest about what it needs."""

import pytest
import torch

from l2o_splat.optim.rule import Feedback, RenderedViews
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.views import Views
from tests.resplat_networks import NARROW_FINE, context, initializer, moved, rule

RASTER = RasterSettings("antialiased", 0.1)


def feedback(gaussians, views, step=0):
    return Feedback(None, step, 1.0, RenderedViews(views, render(gaussians, views.cameras, RASTER).rgb))


@torch.no_grad()
def run(update, scene, steps=1):
    gaussians, state = scene.gaussians, update.init_state(scene)
    for step in range(steps):
        delta, state = update(gaussians, feedback(gaussians, scene.context, step), state)
        gaussians = gaussians.zip_map(torch.add, delta)
    return gaussians, state


@pytest.fixture(scope="module")
def scene():
    return initializer()(context())


def test_steps_are_pure_and_move_everything(scene):
    update = rule()
    state = update.init_state(scene)
    seen = feedback(scene.gaussians, scene.context)
    before = {name: tensor.clone() for name, tensor in (*scene.gaussians.items(), *state.items())}
    with torch.no_grad():
        delta, after = update(scene.gaussians, seen, state)
        again, _ = update(scene.gaussians, seen, state)
    for name, tensor in (*scene.gaussians.items(), *state.items()):
        assert tensor.equal(before[name]), f"{name} was changed in place"
    for name, tensor in delta.items():
        assert tensor.equal(getattr(again, name)) and (tensor != 0).float().mean() > 0.9, name
    assert not after["latent"].equal(state["latent"]) and after["cell"].equal(torch.arange(len(scene.gaussians)))


def test_a_head_of_zeros_moves_nothing(scene):
    update = rule()
    torch.nn.init.zeros_(update.network.update_head[6].weight)
    torch.nn.init.zeros_(update.network.update_head[6].bias)
    moved_to, _ = run(update, scene, steps=2)
    for name, tensor in scene.gaussians.items():
        assert getattr(moved_to, name).equal(tensor), name


def test_scales_never_fall_below_the_floor(scene):
    update = rule(scale_min=1e-3)
    torch.nn.init.zeros_(update.network.update_head[6].weight)
    torch.nn.init.constant_(update.network.update_head[6].bias, -0.05)
    scales = run(update, scene, steps=3)[0].scales.exp()
    assert scales.min() >= 0.999e-3 and (scales < 1.001e-3).float().mean() > 0.5


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_another_world_frame_gives_the_same_steps(scale):
    views, update = context(), rule()
    turned, rotation, translation = moved(views, scale)
    start = initializer()
    first, second = start(views), start(turned, rescaled_by=scale)
    framed = update.bind(SceneKnowledge(turned.cameras.centres, rescaled_by=scale))
    one, two = run(update, first)[0], run(framed, second)[0]
    expected = scale * one.means @ rotation.T + translation
    torch.testing.assert_close(two.means, expected, rtol=0, atol=2e-3 * scale)
    before, after = render(one, views.cameras, RASTER).rgb, render(two, turned.cameras, RASTER).rgb
    assert (after - before).abs().mean() < 2e-3
    changed = render(first.gaussians, views.cameras, RASTER).rgb - before
    assert changed.abs().mean() > 20 * (after - before).abs().mean(), "the steps are too small to tell"
    assert framed.fingerprint != update.fingerprint or scale == 1.0


def test_a_gaussian_keeps_its_cell_when_others_go(scene):
    update = rule()
    state = update.init_state(scene)
    source = torch.tensor([5, 700, 700, *range(300, 330)])
    fresh = torch.zeros(len(source), dtype=torch.bool)
    fresh[2] = True
    resized = update.resize_state(state, source, fresh)
    assert resized["cell"].equal(source) and resized["latent"].equal(state["latent"][source])
    gaussians = scene.gaussians[source]
    delta, _ = update(gaussians, feedback(gaussians, scene.context), resized)
    assert len(delta) == len(source) and not delta.count_non_finite()
    # A local search would need all of them, so it is not made.
    elsewhere, _ = rule(update_local_search=True)(gaussians, feedback(gaussians, scene.context), resized)
    assert elsewhere.means.equal(delta.means)


@pytest.mark.parametrize("local", [False, True])
def test_masked_pixels_have_no_error(local):
    """Whatever they hold and whatever is drawn there, the same steps; Gaussians and latents keep their cells."""
    views = context()
    masks = torch.ones(3, 64, 64, 1)
    masks[:2, :, :22], masks[2, 20:37, 8:50] = 0, 0
    update, found = rule(update_local_search=local), []
    for garbage in (0.5, float("nan"), torch.tensor([0.0, 1.0, 0.0])):
        spoiled = Views(views.cameras, torch.where(masks > 0.5, views.images, garbage), masks)
        masked = initializer()(spoiled)
        state = update.init_state(masked)
        assert state["cell"].equal(masked.cell) and 0 < len(masked.cell) < 3 * 256
        shown = render(masked.gaussians, views.cameras, RASTER).rgb
        delta, after = None, state
        for _ in range(2):
            shown = torch.where(masks > 0.5, shown, garbage if len(found) else 0.0)
            feedback = Feedback(None, 0, 1.0, RenderedViews(spoiled, shown))
            with torch.no_grad():
                delta, after = update(masked.gaussians, feedback, after)
        assert after["cell"].equal(masked.cell) and not delta.count_non_finite()
        found.append(torch.cat([delta.pack(), after["latent"]], dim=1))
    assert found[0].equal(found[1]) and found[0].equal(found[2])


def test_masks_that_mask_nothing_change_nothing(scene):
    views = scene.context
    masked = initializer()(Views(views.cameras, views.images, torch.ones(3, 64, 64, 1)))
    for one, other in zip(run(rule(), masked, steps=2), run(rule(), scene, steps=2), strict=True):
        assert all(value.equal(dict(other.items())[name]) for name, value in one.items())


def test_one_state_per_gaussian_of_the_fine_layout():
    fine = initializer(NARROW_FINE)(context(2))
    gaussians, state = run(rule(NARROW_FINE, update_local_search=True), fine)
    assert state["latent"].shape == (2 * 64 * 64, 32) and not gaussians.count_non_finite()


def test_the_graph_reaches_weights_and_earlier_states_only(scene):
    update = rule()
    gaussians = scene.gaussians.map(lambda tensor: tensor.clone().requires_grad_())
    state = update.init_state(SceneStart(gaussians, scene.features))
    seen = feedback(scene.gaussians, scene.context)
    for _ in range(2):
        delta, state = update(gaussians, seen, state)
    sum(tensor.sum() for _, tensor in delta.items()).backward()
    named = dict(update.network.named_parameters())
    without = {name for name, weight in named.items() if weight.grad is None}
    assert without == {name for name in named if name.startswith("update_feature.")}
    assert update.network.update_proj.weight.grad.abs().sum() > 0, "the first state got no gradient"
    assert all(tensor.grad is None for _, tensor in gaussians.items())


def test_bfloat16_stays_close(scene):
    exact, state = run(rule(precision="float32"), scene)
    half, half_state = run(rule(precision="bfloat16"), scene)
    assert half_state["latent"].dtype == torch.bfloat16 and half.means.dtype == torch.float32
    error = (half_state["latent"].float() - state["latent"]).norm() / state["latent"].norm()
    assert 0 < error < 0.05
    assert (half.means - exact.means).abs().max() < 0.05


def test_what_is_missing_is_named(scene):
    update = rule()
    with pytest.raises(ValueError, match=r"features have shape None; 768 Gaussians and these weights need \(768, 32\)"):
        update.init_state(SceneStart(scene.gaussians))
    state = update.init_state(scene)
    with pytest.raises(ValueError, match="no renders of its context views"):
        update(scene.gaussians, Feedback(scene.gaussians, 0, 1.0), state)
    fewer = context(2)
    with pytest.raises(ValueError, match="from 768 cells, but 2 context views have 512 cells"):
        update(scene.gaussians, feedback(scene.gaussians, fewer), state)
    odd = context(3, 72, 72)
    with pytest.raises(ValueError, match="72 x 72 pixels; these weights need multiples of 16"):
        update(scene.gaussians, feedback(scene.gaussians, odd), state)
    with pytest.raises(ValueError, match="renders have shape"):
        RenderedViews(fewer, torch.zeros(2, 8, 8, 3))
