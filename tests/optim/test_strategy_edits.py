"""Changes of the number of splats: by gsplat's own strategies, and by the optimizer's own methods."""

import importlib.util
from pathlib import Path

import pytest
import torch
from gsplat.strategy import DefaultStrategy, MCMCStrategy, ops

from l2o_splat import LearnedOptimizer
from l2o_splat.growth.adc import screen_gradient
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.optim.learned_optimizer import SPLATS, as_gaussians, as_splats
from l2o_splat.rendering import render
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from tests.one_thread import one_thread
from tests.optim.test_learned_optimizer import assert_equal, make_splats, train, weights

__all__ = ["one_thread", "weights"]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gsplat_strategy.py"


@pytest.fixture(params=["gain-mini", "adam-own-scale", "learn2splat"])
def new_optimizer(request, weights):
    """A drop-in optimizer of the gain rule, of Adam, and of the paper's network."""
    if request.param == "adam-own-scale":
        return lambda splats: LearnedOptimizer(splats, rule="adam-own-scale")
    return lambda splats: LearnedOptimizer(splats, weights if request.param == "learn2splat" else None)


def state_rows(optimizer) -> dict[str, torch.Tensor]:
    rows = optimizer.state_dict()["state"][0]["per_gaussian"]
    return {name: value.clone() for name, value in rows.items()}


def chosen(n: int, *rows: int) -> torch.Tensor:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[list(rows)] = True
    return mask


def values_of(splats) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in splats.items()}


def trained(new_optimizer, steps: int = 3):
    splats = make_splats()
    optimizer = new_optimizer(splats)
    train(splats, optimizer, range(steps))
    return splats, optimizer


def assert_as_resized(splats, optimizer, new_optimizer, source, fresh) -> None:
    """State and next steps are those of a twin that was resized by hand, and kept rows are as they were."""
    twin_splats, twin = trained(new_optimizer)
    before = state_rows(twin)
    twin.resize(values_of(splats), source, fresh)
    after, expected = state_rows(optimizer), state_rows(twin)
    for name, rows in expected.items():
        assert torch.equal(after[name], rows), name
        if name in before:  # Ages of rows are kept from the first change on.
            assert torch.equal(after[name][~fresh], before[name][source[~fresh]]), name
    moved = values_of(splats)
    for each in ((splats, optimizer), (twin_splats, twin)):
        train(*each, range(3, 5))
    assert_equal(splats, twin_splats)
    assert (splats["means"] != moved["means"]).any(dim=1).all()


def test_gsplat_duplicates_splits_and_removes(new_optimizer):
    splats, optimizer = trained(new_optimizer)
    params, optimizers = optimizer.for_strategy()
    DefaultStrategy().check_sanity(params, optimizers)
    start = values_of(splats)
    ops.duplicate(params, optimizers, {}, chosen(30, 3, 7))
    assert torch.equal(splats["means"][30:], start["means"][[3, 7]])
    ops.split(params, optimizers, {}, chosen(32, 0))
    ops.remove(params, optimizers, {}, chosen(33, 4))
    source = torch.tensor([1, 2, 3, 4, *range(6, 30), 3, 7, 0, 0])
    assert all(torch.equal(splats[name][:30], start[name][source[:30]]) for name in SPLATS)
    assert_as_resized(splats, optimizer, new_optimizer, source, torch.arange(32) >= 28)
    # The same dicts go on.
    ops.remove(params, optimizers, {}, chosen(32, 31))
    assert len(splats["means"]) == 31 and {len(rows) for rows in state_rows(optimizer).values()} == {31}
    assert all(group["params"][0] is splats[group["name"]] for group in optimizer.param_groups)


def test_gsplat_relocates_and_adds(new_optimizer, monkeypatch):
    # gsplat computes these on CUDA alone; what they are does not matter here.
    monkeypatch.setattr(ops, "compute_relocation", lambda opacities, scales, **_: (opacities / 2, scales / 2))
    splats, optimizer = trained(new_optimizer)
    params, optimizers = optimizer.for_strategy()
    MCMCStrategy().check_sanity(params, optimizers)
    start, dead = values_of(splats), chosen(30, 0, 11)
    torch.manual_seed(0)
    ops.relocate(params, optimizers, {}, dead, binoms=torch.zeros(1))
    ops.sample_add(params, optimizers, {}, 3, binoms=torch.zeros(1))
    source = (splats["means"].detach()[:, None] == start["means"]).all(dim=2).int().argmax(dim=1)
    relocated = chosen(30, *source[dead.nonzero()[:, 0]].tolist())
    fresh = torch.cat([dead | relocated, torch.ones(3, dtype=torch.bool)])
    assert not relocated[dead].any() and torch.equal(source[:30][~dead], torch.arange(30)[~dead])
    assert_as_resized(splats, optimizer, new_optimizer, source, fresh)


def test_a_reset_of_opacities_forgets_their_gradients_alone(new_optimizer):
    splats, optimizer = trained(new_optimizer)
    before = state_rows(optimizer)
    params, optimizers = optimizer.for_strategy()
    ops.reset_opa(params, optimizers, {}, value=0.01)
    assert (splats["opacities"].sigmoid() <= 0.0101).all()
    after = state_rows(optimizer)
    # Lists of neighbours are searched anew after a change.
    changed = {name: after[name] != rows for name, rows in before.items() if name in after}
    changed = {name: rows for name, rows in changed.items() if rows.any()}
    # One column of first moments and one of second ones.
    assert sum(int(mask.flatten(1).any(dim=0).sum()) for mask in changed.values()) == 2
    assert all((after[name][mask] == 0).all() for name, mask in changed.items())
    train(splats, optimizer, range(3, 5))


def test_frozen_splats_stay_frozen_through_a_strategy(new_optimizer):
    splats, optimizer = trained(new_optimizer)
    splats["quats"].requires_grad_(False)
    params, optimizers = optimizer.for_strategy()
    ops.remove(params, optimizers, {}, chosen(30, 2))
    assert not splats["quats"].requires_grad and splats["means"].requires_grad
    before = values_of(splats)
    train(splats, optimizer, [3])
    assert torch.equal(splats["quats"], before["quats"]) and not torch.equal(splats["means"], before["means"])


def test_own_methods_resize_between_the_edits_of_a_strategy(new_optimizer):
    splats, optimizer = trained(new_optimizer)
    params, optimizers = optimizer.for_strategy()
    ops.remove(params, optimizers, {}, chosen(30, 0, 1))
    optimizer.clone(chosen(28, 5))
    ops.remove(params, optimizers, {}, chosen(29, 27))
    source = torch.tensor([*range(2, 29), 7])
    assert_as_resized(splats, optimizer, new_optimizer, source, torch.arange(28) == 27)


def test_removed_and_cloned_splats_are_those_of_the_mask(new_optimizer):
    splats, optimizer = trained(new_optimizer)
    optimizer.remove(chosen(30, 0, 4))
    optimizer.clone(chosen(28, 27))
    source = torch.tensor([1, 2, 3, *range(5, 30), 29])
    assert_as_resized(splats, optimizer, new_optimizer, source, torch.arange(29) == 28)


def test_halves_share_the_remembered_gradients_of_the_whole(weights):
    splats, optimizer = trained(lambda splats: LearnedOptimizer(splats, weights))
    before, values = state_rows(optimizer), values_of(splats)
    optimizer.split(chosen(30, 6))
    after, kept = state_rows(optimizer), ~chosen(30, 6)
    assert len(splats["means"]) == 31
    torch.testing.assert_close(splats["means"][29:].mean(dim=0), values["means"][6])
    for name, rows in before.items():
        assert torch.equal(after[name][:29], rows[kept]), name
    for half in (29, 30):
        assert torch.equal(after["adam_m"][half], before["adam_m"][6] / 2) and before["adam_m"][6].any()
        assert torch.equal(after["adam_v"][half], before["adam_v"][6] / 4)
        assert torch.equal(after["latent"][half], before["latent"][6])
        assert after["adam_t"][half] == before["adam_t"][6]
    train(splats, optimizer, range(3, 5))


def test_an_added_splat_knows_what_its_neighbour_knows(weights):
    splats, optimizer = trained(lambda splats: LearnedOptimizer(splats, weights))
    before = state_rows(optimizer)
    added = {name: value[[12, 20]] + 1e-3 for name, value in values_of(splats).items()}
    optimizer.add(added)
    after = state_rows(optimizer)
    assert all(torch.equal(splats[name][30:], value) for name, value in added.items())
    assert torch.equal(after["latent"][30:], before["latent"][[12, 20]])
    assert not after["adam_m"][30:].any() and torch.equal(after["adam_m"][:30], before["adam_m"])
    train(splats, optimizer, range(3, 5))


def test_changes_that_do_not_fit_are_refused_and_change_nothing(weights):
    splats, optimizer = trained(lambda splats: LearnedOptimizer(splats, weights))
    before = values_of(splats)
    for change in (optimizer.remove, optimizer.clone, optimizer.split):
        with pytest.raises(ValueError, match=r"bool of shape \[30\] is needed"):
            change(chosen(29, 0))
        with pytest.raises(ValueError, match=r"mask is torch\.int64"):
            change(torch.arange(30))
    with pytest.raises(ValueError, match="SH degree 0, the present ones of degree 3"):
        optimizer.add(values_of(splats) | {"shN": torch.zeros(30, 0, 3)})
    with pytest.raises(ValueError, match="not finite"):
        optimizer.add(values_of(splats) | {"means": torch.full((30, 3), torch.nan)})
    ops.remove(splats, optimizer.for_strategy()[1], {}, chosen(30, 0))
    with pytest.raises(ValueError, match=r"give a strategy what for_strategy\(\) returns"):
        optimizer.step()
    assert all(torch.equal(value[1:], splats[name]) for name, value in before.items())


def load_example():
    spec = importlib.util.spec_from_file_location("gsplat_strategy", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_scene():
    capture = generate(0, ProceduralOptions(num_views=3, width=48, height=32, num_points=80))
    start = as_splats(gaussians_from_points(capture.points.xyz, capture.points.rgb))
    splats = torch.nn.ParameterDict({name: torch.nn.Parameter(value.clone()) for name, value in start.items()})
    return splats, capture.views


def test_the_example_grows_a_scene_with_gsplats_default_strategy(one_thread):
    example = load_example()
    splats, views = tiny_scene()
    n = len(splats["means"])
    with torch.no_grad():
        splats["opacities"][:5] = -9  # Faint enough to be removed.
        splats["scales"][10:20] += 2  # Large enough to be split,
        splats["scales"][20:50] -= 4  # and small enough to be duplicated.
    events = []

    class Watched(DefaultStrategy):
        def _grow_gs(self, *args):
            grown = super()._grow_gs(*args)
            events.append(("duplicated", grown[0]))
            events.append(("split", grown[1]))
            return grown

        def _prune_gs(self, *args):
            events.append(("removed", removed := super()._prune_gs(*args)))
            return removed

    strategy = Watched(refine_start_iter=1, refine_every=2, refine_stop_iter=6, reset_every=5, grow_grad2d=1e-6)
    optimizer = example.train(splats, views, strategy, steps=8)
    assert {name for name, count in events if count} == {"duplicated", "split", "removed"}
    grown = sum(count if name != "removed" else -count for name, count in events)
    assert len(splats["means"]) == n + grown
    assert {len(rows) for rows in state_rows(optimizer).values()} == {n + grown}
    assert optimizer.inner_step == 8
    assert all(value.isfinite().all() for value in splats.values())


def test_the_example_measures_gradients_on_the_screen(one_thread):
    """The same as density control of the package finds from the gradient to the means."""
    example = load_example()
    splats, views = tiny_scene()
    cameras = views.cameras
    images, info = example.draw_on_cpu(splats, cameras)
    torch.testing.assert_close(images, render(as_gaussians(splats), cameras).rgb)
    (images[1] * torch.rand(images[1].shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    expected = screen_gradient(splats["means"].grad, splats["means"].detach(), cameras[1:2])
    found = info["means2d"].grad * torch.tensor([cameras.width / 2, cameras.height / 2])
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert found[1].any() and not found[[0, 2]].any()
