"""What Learn2SplatRule promises beyond the golden numbers."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.optim.learn2splat import Learn2SplatConfig, Learn2SplatRule, paper_columns
from l2o_splat.optim.rule import Feedback
from l2o_splat.scene import SceneStart

SMALL = Learn2SplatNetworkShape(
    latent_width=24,
    attention_width=8,
    hidden_width=40,
    num_blocks=2,
    scale_hidden_width=11,
    head_hidden_width=20,
    feature_width=5,
)


def make_rule(weights_seed=0, **options):
    torch.manual_seed(weights_seed)
    network = Learn2SplatNetwork(SMALL)
    with torch.no_grad():
        network.delta_head[2].bias[-1] = 0.1
    return Learn2SplatRule(network, Learn2SplatConfig(**options))


def scene(n=40, width=59, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Gaussians.unpack(torch.randn(n, width, generator=generator))


def feedback(n=40, width=59, seed=2, step=0, inactive=()):
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    rows[list(inactive)] = 0
    return Feedback(Gaussians.unpack(rows), step, 1.0)


def assert_same(a: Gaussians, b: Gaussians, **tolerance):
    torch.testing.assert_close(a.pack(), b.pack(), **tolerance)


@pytest.fixture(autouse=True)
def no_graph():
    with torch.no_grad():
        yield


def test_packing_reorders_quaternions_and_colours():
    rows = torch.arange(59.0)[None]
    gaussians = Gaussians.unpack(rows)
    paper = rows[:, paper_columns(16)][0]
    assert torch.equal(paper[6:10], gaussians.quats[0, [1, 2, 3, 0]])
    assert torch.equal(paper[11:].view(3, 16), gaussians.sh[0].T)


def test_permuting_gaussians_permutes_everything():
    rule, gaussians, seen = make_rule(), scene(), feedback(inactive=[3, 9])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    state = rule.init_state(SceneStart(gaussians))
    delta, after = rule(gaussians, seen, state)
    permuted_state = state.at(order)
    permuted, permuted_after = rule(gaussians[order], replace(seen, gradients=seen.gradients[order]), permuted_state)
    assert_same(permuted, delta[order], rtol=1e-4, atol=1e-6)
    for name in after:
        torch.testing.assert_close(permuted_after[name], after[name][order], rtol=1e-4, atol=1e-5)


def test_inputs_stay_as_they_were():
    rule, gaussians, seen = make_rule(), scene(), feedback(inactive=[0])
    state = rule.init_state(SceneStart(gaussians))
    before = [gaussians.pack(), seen.gradients.pack(), *(rows.clone() for rows in state.values())]
    rule(gaussians, seen, state)
    for old, new in zip(before, [gaussians.pack(), seen.gradients.pack(), *state.values()], strict=True):
        assert torch.equal(old, new)


def test_gaussians_without_gradient_are_left_alone():
    rule, gaussians, seen = make_rule(), scene(), feedback(inactive=[0, 7, 39])
    state = rule.init_state(SceneStart(gaussians))
    delta, after = rule(gaussians, seen, state)
    idle = torch.tensor([0, 7, 39])
    assert delta.pack()[idle].abs().max() == 0
    assert all(torch.equal(after[name][idle], state[name][idle]) for name in state)
    assert (delta.pack().abs().amax(dim=1) > 0).sum() > 20 and after["adam_t"].sum() == 37
    alone = torch.tensor([i for i in range(40) if i not in idle])
    part, _ = rule(
        gaussians[alone],
        replace(seen, gradients=seen.gradients[alone]),
        state.at(alone),
    )
    assert_same(part, delta[alone], rtol=1e-4, atol=1e-6)


def test_a_step_with_too_few_gradients_moves_nothing(caplog):
    rule, gaussians, seen = make_rule(), scene(), feedback(inactive=range(2, 40))
    state = rule.init_state(SceneStart(gaussians))
    delta, after = rule(gaussians, seen, state)
    assert delta.pack().abs().max() == 0 and all(torch.equal(after[name], state[name]) for name in state)
    assert "only 2 Gaussians have a gradient" in caplog.text


def test_fewer_gaussians_than_neighbours_are_refused():
    rule = make_rule()
    with pytest.raises(ValueError, match="There are 3 Gaussians; these weights attend to 4"):
        rule(scene(3), feedback(3), rule.init_state(SceneStart(scene(3))))


def test_results_are_within_the_clamps():
    rule = make_rule(active_only=False)
    gaussians = scene().map(lambda values: 20 * values)
    delta, _ = rule(gaussians, feedback(), rule.init_state(SceneStart(gaussians)))
    after = gaussians.zip_map(torch.add, delta)
    assert after.scales.min() > -8.001 and after.scales.max() < 1.099
    assert after.opacities.abs().max() < 7.2 and after.sh.abs().max() < 2.001


@pytest.mark.parametrize("degree", [0, 1, 2, 4])
def test_other_sh_degrees_are_padded_or_cut(degree):
    rule, seen = make_rule(), feedback()
    width = 11 + 3 * (degree + 1) ** 2
    full = torch.zeros(2, 40, max(width, 59))
    for rows, values in zip(full, (scene(width=width), feedback(width=width).gradients), strict=True):
        rows[:, :width] = values.pack()
    delta, _ = rule(
        Gaussians.unpack(full[0, :, :width]),
        Feedback(Gaussians.unpack(full[1, :, :width]), 0, 1.0),
        rule.init_state(SceneStart(scene())),
    )
    seen = Feedback(Gaussians.unpack(full[1, :, :59]), 0, 1.0)
    expected, _ = rule(Gaussians.unpack(full[0, :, :59]), seen, rule.init_state(SceneStart(scene())))
    both = min(width, 59)
    torch.testing.assert_close(delta.pack()[:, :both], expected.pack()[:, :both])
    assert delta.sh_degree == degree and delta.pack()[:, both:].abs().sum() == 0


def test_capped_bands_are_brought_to_zero_and_stay():
    rule, gaussians = make_rule(cap_sh_degree=1), scene()
    seen = feedback(inactive=[5])
    state = rule.init_state(SceneStart(gaussians))
    delta, _ = rule(gaussians, seen, state)
    after = gaussians.zip_map(torch.add, delta)
    assert after.features_rest[:, 3:].abs().max() == 0
    assert torch.equal(after.features_rest[5, :3], gaussians.features_rest[5, :3])
    zeroed = replace(gaussians, features_rest=gaussians.features_rest * (torch.arange(15) < 3)[:, None])
    again, _ = rule(zeroed, seen, state)
    assert_same(zeroed.zip_map(torch.add, again), after)


def test_rows_in_portions_equal_all_at_once(monkeypatch):
    rule, gaussians, seen = make_rule(), scene(), feedback()
    state = rule.init_state(SceneStart(gaussians))
    delta, after = rule(gaussians, seen, state)
    monkeypatch.setattr("l2o_splat.nets.point_transformer.ROWS_ON_CPU", 7)
    portions, after_portions = rule(gaussians, seen, state)
    assert_same(portions, delta, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after_portions["latent"], after["latent"], rtol=1e-4, atol=1e-5)


def test_neighbours_are_kept_for_the_interval():
    rule = make_rule(active_only=False, knn_refresh_interval=3)
    state = rule.init_state(SceneStart(scene()))
    kept = []
    for step in range(4):
        _, state = rule(scene(seed=10 + step), feedback(step=step), state)
        kept.append(state["neighbours"])
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2]) and not torch.equal(kept[0], kept[3])
    assert kept[0].dtype == torch.int64
    with pytest.raises(ValueError, match="turn active_only off"):
        Learn2SplatConfig(knn_refresh_interval=3)


def test_resized_state_inherits_latent_and_counter():
    rule = make_rule(active_only=False, knn_refresh_interval=100)
    _, state = rule(scene(), feedback(), rule.init_state(SceneStart(scene())))
    source, fresh = torch.tensor([4, 4, 11, 0]), torch.tensor([False, True, False, True])
    resized = rule.resize_state(state, source, fresh)
    assert torch.equal(resized["latent"], state["latent"][source])
    assert torch.equal(resized["adam_t"], state["adam_t"][source])
    for name in ("adam_m", "adam_v"):
        assert torch.equal(resized[name][~fresh], state[name][source[~fresh]])
        assert resized[name][fresh].abs().max() == 0
    _, later = rule(scene(4), feedback(4, step=5), resized)
    assert later["neighbours"].shape == (4, 4)


def test_adam_direction_is_adams():
    rule, gaussians = make_rule(), scene()
    state = rule.init_state(SceneStart(gaussians))
    weight = torch.zeros(40, 59, requires_grad=True)
    adam = torch.optim.Adam([weight], lr=1.0, eps=1e-15)
    for step in range(3):
        seen = feedback(step=step, seed=step)
        proposal = rule.propose(gaussians, seen, state)
        state, before = proposal.state, weight.detach().clone()
        weight.grad = seen.gradients.pack()[:, paper_columns(16)]
        adam.step()
        torch.testing.assert_close(proposal.direction, before - weight.detach(), rtol=1e-4, atol=1e-4)


@torch.enable_grad()
def test_the_graph_runs_through_latent_states_and_nothing_else():
    rule = make_rule()
    gaussians = scene().map(lambda values: values.requires_grad_())
    seen = replace(feedback(), gradients=feedback().gradients.map(lambda values: values.requires_grad_()))
    start = rule.init_state(SceneStart(gaussians)).updated(latent=torch.randn(40, 24, requires_grad=True))
    _, state = rule(gaussians, seen, start)
    state["latent"].retain_grad()
    delta, _ = rule(gaussians, replace(seen, step=1), state)
    delta.pack().square().sum().backward()
    assert state["latent"].grad.abs().sum() > 0 and start["latent"].grad.abs().sum() > 0
    assert rule.network.point_transformer[0].linear.weight.grad.abs().sum() > 0
    assert all(values.grad is None for scene_part in (gaussians, seen.gradients) for _, values in scene_part.items())


def test_start_from_features_or_seed():
    rule, gaussians = make_rule(), scene()
    features = torch.randn(40, 5)
    expected = torch.nn.functional.conv2d(features.T[None, :, :, None], *rule.network.state_proj.parameters())
    torch.testing.assert_close(rule.init_state(SceneStart(gaussians, features))["latent"], expected[0, :, :, 0].T)
    drawn = rule.init_state(SceneStart(gaussians))["latent"]
    assert torch.equal(drawn, rule.init_state(SceneStart(gaussians))["latent"])
    assert not torch.equal(drawn, make_rule(seed=5).init_state(SceneStart(gaussians))["latent"])
    assert make_rule(latent_init="zeros").init_state(SceneStart(gaussians))["latent"].abs().max() == 0
    with pytest.raises(ValueError, match=r"features have shape \(40, 6\)"):
        rule.init_state(SceneStart(gaussians, torch.randn(40, 6)))
    unused = Learn2SplatRule(rule.network, Learn2SplatConfig(use_features=False))
    assert torch.equal(unused.init_state(SceneStart(gaussians, torch.randn(40, 6)))["latent"], drawn)


def test_fingerprint_tells_weights_and_options_apart():
    rule = make_rule()
    assert rule.fingerprint == make_rule().fingerprint
    assert len({rule.fingerprint, make_rule(weights_seed=1).fingerprint, make_rule(active_only=False).fingerprint}) == 3


def test_training_starts_with_steps_of_no_length():
    rule = Learn2SplatRule(Learn2SplatNetwork(SMALL).reset_for_training(4), Learn2SplatConfig())
    delta, _ = rule(scene().map(lambda values: 0.1 * values), feedback(), rule.init_state(SceneStart(scene())))
    assert delta.pack().abs().max() < 1e-6
    with torch.enable_grad():
        delta, _ = rule(scene(), feedback(), rule.init_state(SceneStart(scene())))
        delta.pack().sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in rule.network.delta_head.parameters())
    assert rule.network.delta_head[2].weight.grad.abs().sum() > 0
    again = Learn2SplatNetwork(SMALL).reset_for_training(4).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in rule.network.state_dict().items())


def test_the_network_compiles_without_breaks():
    rule = make_rule()
    inputs = torch.randn(40, 59), torch.randn(40, 24), torch.randn(40, 59), torch.arange(40)[:, None].expand(40, 4)
    compiled = torch.compile(rule.network, backend="eager", fullgraph=True)
    for found, expected in zip(compiled(*inputs), rule.network(*inputs), strict=True):
        torch.testing.assert_close(found, expected)
