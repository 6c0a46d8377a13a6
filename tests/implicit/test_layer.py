"""What the packaged layer does: limits with known answers, early stopping, memory, status, refusals."""

import functools
import gc
import statistics
import weakref
from collections import defaultdict

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.implicit.layer import LayerStatus, proximal_refine
from l2o_splat.implicit.linearized_views import ContextViews, FrozenViews
from l2o_splat.implicit.pcg import PCG, LinearStatus
from l2o_splat.implicit.problem import InnerProblem
from l2o_splat.implicit.solvers import AdamSolver, LevenbergMarquardt
from l2o_splat.losses import photometric_loss
from l2o_splat.optim.adam import adam_options
from l2o_splat.rendering import render
from l2o_splat.views import Views
from tests.implicit.scenes import SETTINGS, Toy, blobs, cameras, cosine, disturbed, relative, toy

CLOSELY = PCG(max_iterations=200, tolerance=1e-12)
FOR_ANY_SOLVER = (BackwardMode.IMPLICIT, BackwardMode.FIRST_ORDER)


def refine(problem: Toy, inner, backward, linear=None, views=None):
    """Refined rows, the outer gradient there, the gradients to anchor and precision, and the status."""
    anchor = problem.anchor.map(lambda x: x.clone().requires_grad_())
    precision = problem.precision.clone().requires_grad_()
    refined, status = proximal_refine(anchor, precision, views or problem.context, inner, backward, linear)
    loss = problem.outer_loss(refined)
    *fields, to_precision = torch.autograd.grad(
        loss, [*(leaf for _, leaf in anchor.items()), precision], allow_unused=True
    )
    rows = refined.detach().pack()
    return rows, problem.outer_gradient(rows), Gaussians(*fields).pack(), to_precision, status


def with_an_unseen_gaussian(problem: Toy) -> Toy:
    """The first Gaussian is behind all context cameras, but a target camera sees it."""
    means = problem.anchor.means.clone()
    means[0] = torch.tensor([0.0, 0.0, -2.0])
    anchor = Gaussians(**{**dict(problem.anchor.items()), "means": means})
    context = FrozenViews(Views(problem.context.cameras, problem.context.images), SETTINGS, anchor)
    seen = cameras([3.1], 10)
    targets = FrozenViews(Views(seen, torch.rand(1, 10, 10, 3).double()), SETTINGS, anchor)
    return Toy(anchor, problem.precision, context, targets)


@pytest.mark.parametrize(
    ("inner", "backward"),
    [
        *((AdamSolver(steps=8), backward) for backward in BackwardMode),
        *((LevenbergMarquardt(steps=2), backward) for backward in FOR_ANY_SOLVER),
    ],
)
def test_an_unseen_gaussian_passes_through(inner, backward):
    problem = with_an_unseen_gaussian(toy(n=3))
    rows, gradient, to_anchor, to_precision, _ = refine(problem, inner, backward)
    assert gradient[0].abs().sum() > 1e-3, "the target camera sees it"
    assert torch.equal(rows[0], problem.rows[0])
    assert not torch.equal(rows[1:], problem.rows[1:])
    torch.testing.assert_close(to_anchor[0], gradient[0], rtol=1e-13, atol=1e-15)
    assert to_precision is None or not to_precision[0].any()


@pytest.mark.parametrize(
    ("inner", "backward"),
    [
        (AdamSolver(steps=3), BackwardMode.IMPLICIT),
        (AdamSolver(steps=3), BackwardMode.IMPLICIT_DAMPED),
        (LevenbergMarquardt(steps=3), BackwardMode.IMPLICIT),
    ],
)
def test_infinite_precision_is_plain_training(inner, backward):
    problem = toy(n=3)
    problem.precision = torch.full_like(problem.precision, 1e8)
    rows, gradient, to_anchor, to_precision, _ = refine(problem, inner, backward, CLOSELY)
    if isinstance(inner, LevenbergMarquardt):  # Adam's steps have a fixed length, however strongly it is pulled back.
        assert relative(rows, problem.rows) < 1e-7
    assert relative(to_anchor, gradient) < 1e-6
    assert to_precision.norm() < 1e-6 * gradient.norm()


def test_little_precision_overwrites_the_anchor():
    """The gradient to the anchor fades where the optimization decides: the other limit."""
    problem = toy(n=2, size=8)
    norms = []
    for strength in (1e-2, 1e-4, 1e-6):
        problem.precision = torch.full_like(problem.precision, strength)
        _, gradient, to_anchor, _, _ = refine(
            problem, LevenbergMarquardt(steps=6), BackwardMode.IMPLICIT, PCG(max_iterations=100, tolerance=1e-6)
        )
        norms.append((to_anchor[:, 10:].norm() / gradient[:, 10:].norm()).item())
    assert norms[0] > norms[1] > norms[2] and norms[2] < 1e-2


def cosines_with_unrolling(steps, seeds=5):
    """Median cosine of each implicit mode's gradients to anchor and precision with those through every Adam step."""
    found: dict[tuple[BackwardMode, str], list[float]] = defaultdict(list)
    for seed in range(seeds):
        problem = toy(n=4, noise=0.05, seed=seed)
        inner = AdamSolver(steps=steps)
        _, _, true_anchor, true_precision, _ = refine(problem, inner, BackwardMode.UNROLL)
        for backward in (BackwardMode.IMPLICIT_DAMPED, BackwardMode.IMPLICIT):
            linear = PCG(max_iterations=32, tolerance=1e-4)
            _, _, to_anchor, to_precision, _ = refine(problem, inner, backward, linear)
            found[backward, "anchor"].append(cosine(to_anchor, true_anchor))
            found[backward, "precision"].append(cosine(to_precision, true_precision))
    return {key: statistics.median(values) for key, values in found.items()}


def test_the_damped_adjoint_follows_an_unconverged_run():
    cosines = cosines_with_unrolling(steps=10)
    damped, plain = (
        {name: cosines[mode, name] for name in ("anchor", "precision")}
        for mode in (BackwardMode.IMPLICIT_DAMPED, BackwardMode.IMPLICIT)
    )
    assert damped["anchor"] > 0.9
    assert damped["anchor"] > plain["anchor"] and damped["precision"] > plain["precision"]


def test_unrolling_is_the_derivative_of_the_steps():
    """Against finite differences of the whole run, unseen Gaussian and all."""
    problem = with_an_unseen_gaussian(toy(n=3))
    inner = AdamSolver(steps=5)
    _, _, to_anchor, to_precision, _ = refine(problem, inner, BackwardMode.UNROLL)
    direction, step = torch.randn(3, 14, generator=torch.Generator().manual_seed(0)).double(), 1e-6
    relative_direction = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).double() * problem.precision

    def loss(rows, precision):
        refined, _ = proximal_refine(Gaussians.unpack(rows), precision, problem.context, inner, BackwardMode.UNROLL)
        assert not refined.means.requires_grad
        return problem.outer_loss(refined)

    rows, precision = problem.rows, problem.precision
    difference = (loss(rows + step * direction, precision) - loss(rows - step * direction, precision)) / (2 * step)
    expected = (to_anchor * direction).sum()
    assert abs(difference - expected) < 1e-5 * to_anchor.norm() * direction.norm()
    away = 1e-3 * relative_direction
    difference = (loss(rows, precision + away) - loss(rows, precision - away)) / 2
    assert abs(difference - (to_precision * away).sum()) < 1e-3 * to_precision.norm() * away.norm()


@pytest.mark.parametrize("backward", BackwardMode)
def test_the_outer_loss_may_be_one_that_is_differentiable_once(backward):
    """The package's SSIM is; the inner problem has no such term, so that no mode differentiates it twice."""
    problem = toy(n=3, size=12)
    anchor = problem.anchor.map(lambda x: x.clone().requires_grad_())
    refined, status = proximal_refine(anchor, problem.precision, problem.context, AdamSolver(steps=2), backward)
    photometric_loss(problem.targets.draw(refined), problem.targets.images).backward()
    assert status.failure is None
    assert all(leaf.grad.isfinite().all() and (leaf.grad.any() or leaf.numel() == 0) for _, leaf in anchor.items())


def test_first_order_passes_the_gradient():
    _, gradient, to_anchor, to_precision, status = refine(toy(n=3), AdamSolver(steps=4), BackwardMode.FIRST_ORDER)
    assert torch.equal(to_anchor, gradient) and to_precision is None and status.linear is None


def test_adam_solver_is_torch_adam_on_the_energy():
    """The proximal term is inside the gradient, not a decay beside it."""
    problem = toy(n=3)
    rows, *_ = refine(problem, AdamSolver(steps=6, scene_extent=2.0), BackwardMode.FIRST_ORDER)
    leaves = problem.anchor.map(lambda x: x.clone().requires_grad_())
    rates = {"means": 3.2e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "features_dc": 2.5e-3}
    groups = [{"params": [getattr(leaves, name)], "lr": rate} for name, rate in rates.items()]
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    for _ in range(6):
        optimizer.zero_grad()
        away = (leaves.pack() - problem.rows).square() * problem.channels()
        (0.5 * (problem.context.residual(leaves).square().sum() + away.sum())).backward()
        optimizer.step()
    torch.testing.assert_close(rows, leaves.detach().pack(), rtol=1e-10, atol=1e-12)


def test_stopping_after_one_step_is_a_precision():
    """After one step, the second moment is the squared gradient: |gradient| / rate."""
    problem = toy(n=3)
    _, gradient = problem.problem().gradient(problem.rows)
    gradient = Gaussians.unpack(gradient.abs())
    found = Gaussians.unpack(AdamSolver(steps=1, scene_extent=2.0).run(problem.problem()).early_stopping)
    torch.testing.assert_close(found.means, gradient.means / 3.2e-4)
    torch.testing.assert_close(found.opacities, gradient.opacities / 5e-2)
    own = adam_options("own-scale", horizon=1)
    found = Gaussians.unpack(AdamSolver(steps=1, options=own, scene_extent=2.0).run(problem.problem()).early_stopping)
    sizes = refined_scales(problem, own).exp().mean(dim=1, keepdim=True)
    torch.testing.assert_close(found.means, gradient.means / (own.rates.means * sizes))


def refined_scales(problem, options):
    rows = AdamSolver(steps=1, options=options, scene_extent=2.0).run(problem.problem()).rows
    return Gaussians.unpack(rows).scales


def test_levenberg_marquardt_needs_few_steps():
    problem = toy(n=4)
    few = proximal_refine(
        problem.anchor, problem.precision, problem.context, LevenbergMarquardt(steps=8), BackwardMode.IMPLICIT
    )[1]
    many = proximal_refine(problem.anchor, problem.precision, problem.context, AdamSolver(steps=80))[1]
    assert few.energy_after < many.energy_after < many.energy_before
    assert few.gradient_ratio < 0.1 and few.failure is None


def test_levenberg_marquardt_never_goes_up(monkeypatch):
    """With hardly any damping and a far start, some steps are refused."""
    problem = toy(n=4, offset=0.4)
    energy_of, tried = InnerProblem.energy, []

    def energy(problem, rows):
        tried.append(energy_of(problem, rows))
        return tried[-1]

    monkeypatch.setattr(InnerProblem, "energy", energy)
    status = proximal_refine(
        problem.anchor,
        problem.precision * 1e-3,
        problem.context,
        LevenbergMarquardt(steps=6, damping=1e-9),
        BackwardMode.IMPLICIT,
    )[1]
    assert tried[-1] > 2 * min(tried), "the last step was not refused"
    assert status.energy_after == pytest.approx(float(min(tried)))
    assert status.energy_after < status.energy_before


class Held:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


@functools.cache
def held_bytes(steps, backward):
    """What is kept between forward and backward."""
    problem, held = toy(n=3, size=8), weakref.WeakSet()
    anchor = problem.anchor.map(lambda x: x.clone().requires_grad_())

    def pack(tensor):
        kept = Held(tensor.detach())  # Outputs would keep their own graph alive.
        held.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        refined, _ = proximal_refine(anchor, problem.precision, problem.context, AdamSolver(steps=steps), backward)
    gc.collect()
    assert refined.means.requires_grad
    return sum(kept.tensor.numel() * kept.tensor.element_size() for kept in held)


@pytest.mark.parametrize("backward", [b for b in BackwardMode if b is not BackwardMode.UNROLL])
def test_memory_does_not_grow_with_the_steps(backward):
    assert held_bytes(2, backward) == held_bytes(9, backward)
    assert held_bytes(9, BackwardMode.UNROLL) > 3 * held_bytes(2, BackwardMode.UNROLL)


@pytest.mark.parametrize("backend", ["cpu", "reference", None])
def test_renderers_in_float32(backend):
    """The layer over live renderers agrees with the smooth problem in float64."""
    problem = toy(n=4, size=16, degree=1)
    inner, linear = AdamSolver(steps=5), PCG(max_iterations=32, tolerance=1e-4)
    _, _, expected, expected_precision, _ = refine(problem, inner, BackwardMode.IMPLICIT_DAMPED, linear)
    views = Views(problem.context.cameras.to(torch.float32), problem.context.images.float())
    targets = Views(problem.targets.cameras.to(torch.float32), problem.targets.images.float())
    single = Toy(
        problem.anchor.to(torch.float32),
        problem.precision.float(),
        ContextViews(views, SETTINGS, backend),
        ContextViews(targets, SETTINGS, backend),
    )
    _, _, to_anchor, to_precision, status = refine(single, inner, BackwardMode.IMPLICIT_DAMPED, linear)
    assert status.failure is None
    assert to_anchor.dtype == to_precision.dtype == torch.float32
    assert cosine(to_anchor.double(), expected) > 0.98
    assert cosine(to_precision.double(), expected_precision) > 0.98


def test_float32_under_autocast():
    problem = toy(n=3)
    views = Views(problem.context.cameras.to(torch.float32), problem.context.images.float())
    context = ContextViews(views, SETTINGS, "reference")
    found = []
    for enabled in (False, True):
        anchor = problem.anchor.to(torch.float32).map(lambda x: x.requires_grad_())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            refined, _ = proximal_refine(anchor, problem.precision.float(), context, AdamSolver(steps=3))
            loss = refined.pack().square().sum()
            found.append(torch.autograd.grad(loss, [leaf for _, leaf in anchor.items()]))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_status_tells_how_it_went():
    problem = toy(n=4)
    *_, status = refine(problem, AdamSolver(steps=30), BackwardMode.IMPLICIT, PCG(max_iterations=3, tolerance=1e-9))
    assert status.steps == 30 and status.failure is None and not status.converged
    assert 0 < status.energy_after < status.energy_before
    assert status.linear.iterations == 3 and status.linear.reason == "max_iterations"
    problem = toy(n=2, size=8)
    *_, status = refine(problem, LevenbergMarquardt(steps=20, linear=CLOSELY), BackwardMode.IMPLICIT, CLOSELY)
    assert status.converged and status.linear.converged and status.linear.residual < 1e-12


def test_failures_are_named():
    fine = {"steps": 1, "energy_before": 2.0, "energy_after": 1.0, "gradient_ratio": 0.5}
    assert LayerStatus(**fine).failure is None
    assert "rose from 2 to 3" in LayerStatus(**{**fine, "energy_after": 3.0}).failure
    assert "not finite" in LayerStatus(**{**fine, "gradient_ratio": float("nan")}).failure
    assert "not positive definite" in LayerStatus(**fine, linear=LinearStatus(0, 1.0, "not_positive_definite")).failure
    assert LayerStatus(**fine, linear=LinearStatus(3, 1.0, "not_positive_definite")).failure is None
    problem = toy(n=3)
    rates = AdamSolver(steps=3, scene_extent=1e4)
    assert "rose" in proximal_refine(problem.anchor, problem.precision, problem.context, rates)[1].failure


def test_a_gradient_that_is_not_finite_is_reported():
    problem = toy(n=3)
    anchor = problem.anchor.map(lambda x: x.clone().requires_grad_())
    refined, status = proximal_refine(anchor, problem.precision, problem.context, AdamSolver(steps=2))
    (refined.means.sum() * float("nan")).backward()
    assert status.failure == "the gradient is not finite"


def test_gaussians_of_any_degree_and_none_at_all():
    problem = toy(n=3, degree=2)
    _, _, to_anchor, to_precision, _ = refine(problem, AdamSolver(steps=2), BackwardMode.IMPLICIT_DAMPED)
    assert to_anchor.shape == (3, 38) and to_precision.shape == (3, 5)
    empty = blobs(3, 0)[:0]
    views = ContextViews(Views(problem.context.cameras, problem.context.images), SETTINGS)
    refined, status = proximal_refine(empty, torch.zeros(0, 5).double(), views, AdamSolver(steps=2))
    assert len(refined) == 0 and status.failure is None


def test_refusals():
    problem = toy(n=3)
    for backward in (BackwardMode.IMPLICIT_DAMPED, BackwardMode.UNROLL):
        with pytest.raises(ValueError, match="needs the Adam solver, but the inner solver is a LevenbergMarquardt"):
            proximal_refine(problem.anchor, problem.precision, problem.context, LevenbergMarquardt(), backward)
    with pytest.raises(ValueError, match="precision has shape .2, 5. for 3 Gaussians.*densification"):
        proximal_refine(problem.anchor, problem.precision[:2], problem.context)
    with pytest.raises(ValueError, match="'cubic' is not a valid BackwardMode"):
        proximal_refine(problem.anchor, problem.precision, problem.context, backward="cubic")
    with pytest.raises(ValueError, match="0 steps"):
        AdamSolver(steps=0)
    with pytest.raises(ValueError, match="positive damping"):
        LevenbergMarquardt(damping=0)
    single = problem.anchor.to(torch.float32).map(lambda x: x.requires_grad_())
    views = Views(problem.context.cameras.to(torch.float32), problem.context.images.float())
    with pytest.raises(ValueError, match="only the torch renderer can"):
        proximal_refine(
            single, problem.precision.float(), ContextViews(views, SETTINGS), AdamSolver(), BackwardMode.UNROLL
        )


def test_refinement_helps_a_scene():
    """The inner problem is the intended one: the photographs are fitted better."""
    truth, seen = blobs(5, 0), cameras([-0.2, 0.2], 16)
    views = Views(seen, render(truth, seen, SETTINGS).rgb)
    anchor = disturbed(truth, 0.1, seed=1)
    context = FrozenViews(views, SETTINGS, anchor)
    precision = torch.full((5, 5), 1e-3).double()
    refined, _ = proximal_refine(anchor, precision, context, AdamSolver(steps=60))
    before, after = (context.residual(scene).square().mean() for scene in (anchor, refined))
    assert after < 0.5 * before
