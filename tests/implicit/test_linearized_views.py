"""Products with the Jacobian of the residuals: dense algebra, and all backends against one another."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit import reverse_only
from l2o_splat.implicit.linearized_views import ContextViews, FrozenViews, LinearizedViews
from l2o_splat.implicit.problem import damped_curvature
from l2o_splat.implicit.reverse_only import ReverseOnlyLinearization, difference_jvp
from l2o_splat.rendering import Linearization, RasterSettings, render
from l2o_splat.views import Views
from tests.implicit.scenes import SETTINGS, blobs, cameras, dense_jacobian, relative, toy
from tests.rendering.scenes import random_scene

BACKENDS = ("reference", "cpu", "frozen", "reverse-only", "differences")


def photographs(seen, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(seen), seen.height, seen.width, 3)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(seen.Ks.dtype)


class ReverseOnlyViews(ContextViews):
    """The path of gsplat, with the CPU kernels in its place."""

    def _linearize_view(self, gaussians, view):
        camera = self._camera(view)
        return ReverseOnlyLinearization(
            gaussians, lambda scene: render(scene, camera, self.settings, "cpu"), camera, self.settings
        )


def context(backend, views, gaussians, monkeypatch=None) -> ContextViews:
    if backend == "frozen":
        return FrozenViews(views, SETTINGS, gaussians)
    if backend == "differences":
        monkeypatch.setattr(reverse_only, "MAX_LISTED_PAIRS", 0)
    if backend in ("differences", "reverse-only"):
        return ReverseOnlyViews(views, SETTINGS)
    return ContextViews(views, SETTINGS, backend)


def smooth_scene(dtype=torch.float32):
    """A few large Gaussians, so that little crosses the cut-off at 1/255, or one another, under a displacement."""
    gaussians, seen = blobs(8, seed=3, degree=1), cameras([-0.2, 0.3], 32)
    return gaussians.to(dtype), seen.to(dtype)


def test_curvature_is_the_dense_matrix():
    problem = toy(n=4)
    linearized = problem.context.linearize(problem.anchor)
    jacobian = dense_jacobian(problem.context, problem.rows)
    tangents = torch.randn_like(problem.rows)
    product = damped_curvature(linearized, problem.channels())(tangents)
    dense = (jacobian.mT @ (jacobian @ tangents.flatten())).view_as(tangents) + problem.channels() * tangents
    assert relative(product, dense) < 1e-12
    image = linearized.jvp(tangents)
    assert relative(image.flatten(), jacobian @ tangents.flatten()) < 1e-12
    assert relative(linearized.vjp(image).flatten(), jacobian.mT @ image.flatten()) < 1e-12


@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        ("frozen", torch.float64, 1e-12),
        ("reference", torch.float64, 1e-12),
        ("frozen", torch.float32, 1e-4),
        ("reference", torch.float32, 1e-4),
        ("cpu", torch.float32, 1e-4),
        ("reverse-only", torch.float32, 1e-4),
        ("differences", torch.float32, 5e-2),
    ],
)
def test_products_are_adjoint_and_the_curvature_is_symmetric(backend, dtype, tolerance, monkeypatch):
    gaussians, seen = smooth_scene(dtype)
    linearized = context(backend, Views(seen, photographs(seen)), gaussians, monkeypatch).linearize(gaussians)
    a, b = (torch.randn_like(gaussians.pack()) for _ in range(2))
    images = torch.randn_like(linearized.residual())
    one, other = (images * linearized.jvp(a)).double().sum(), (linearized.vjp(images) * a).double().sum()
    assert abs(one - other) <= tolerance * images.double().norm() * linearized.jvp(a).double().norm()
    curved = linearized.curvature(b)
    asymmetry = ((a * curved).double().sum() - (b * linearized.curvature(a)).double().sum()).abs()
    assert asymmetry <= 2 * tolerance * a.double().norm() * curved.double().norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_agree(backend, monkeypatch):
    gaussians, seen = smooth_scene()
    exact, exact_seen = gaussians.to(torch.float64), seen.to(torch.float64)
    twin = ContextViews(Views(exact_seen, photographs(exact_seen)), SETTINGS, "reference").linearize(exact)
    linearized = context(backend, Views(seen, photographs(seen)), gaussians, monkeypatch).linearize(gaussians)
    tangents, images = torch.randn_like(gaussians.pack()), torch.randn_like(linearized.residual())
    assert relative(linearized.residual().double(), twin.residual()) < 1e-4
    assert relative(linearized.vjp(images).double(), twin.vjp(images.double())) < 1e-3
    product, expected = linearized.jvp(tangents).double(), twin.jvp(tangents.double())
    assert relative(product, expected) < (0.2 if backend == "differences" else 1e-3)
    assert torch.nn.functional.cosine_similarity(product.flatten(), expected.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("backend", ["reference", "cpu", "frozen"])
def test_a_finite_difference_of_the_images(backend):
    """The check for silent zeros and silent constants: a random direction against renderings."""
    gaussians, seen = smooth_scene(torch.float64)
    frozen = FrozenViews(Views(seen, photographs(seen)), SETTINGS, gaussians)
    rows, tangents, step = gaussians.pack(), torch.randn_like(gaussians.pack()), 1e-5
    ahead, behind = (frozen.draw(Gaussians.unpack(rows + sign * step * tangents)) for sign in (1, -1))
    dtype = torch.float32 if backend == "cpu" else torch.float64
    views = Views(seen.to(dtype), photographs(seen).to(dtype))
    linearized = context(backend, views, gaussians.to(dtype)).linearize(gaussians.to(dtype))
    product = linearized.jvp(tangents.to(dtype)).double()
    assert relative(product, (ahead - behind) / (2 * step)) < (1e-3 if backend == "cpu" else 1e-7)


class Crooked(Linearization):
    """A renderer whose forward mode is broken, as gsplat's is in some releases."""

    def __init__(self, sound: Linearization, factor: float) -> None:
        self._sound, self._factor = sound, factor

    @property
    def rendering(self):
        return self._sound.rendering

    def jvp(self, tangents):
        return self._sound.jvp(tangents).map(lambda image: self._factor * image)

    def vjp(self, cotangents):
        return self._sound.vjp(cotangents)


@pytest.mark.parametrize("factor", [0.0, 0.5, float("nan")])
def test_silently_wrong_tangents_are_an_error(factor):
    problem = toy(n=3, size=8)
    sound = problem.context.linearize(problem.anchor)
    crooked = LinearizedViews([Crooked(part, factor) for part in sound._parts], sound.residual(), None)
    sound.view_diagonals(probes=1, seed=0)
    with pytest.raises(RuntimeError, match="Jacobian products contradict each other in view 0.*forward mode works"):
        crooked.view_diagonals(probes=1, seed=0)


def test_probes_estimate_the_diagonal():
    problem = toy(n=3, size=8)
    jacobian = dense_jacobian(problem.context, problem.rows)
    expected = jacobian.square().sum(dim=0).view_as(problem.rows)
    linearized = problem.context.linearize(problem.anchor)
    errors = [relative(linearized.view_diagonals(probes, seed=0).sum(dim=0), expected) for probes in (4, 400)]
    assert errors[1] < 0.15 < errors[0] < 3
    per_view = linearized.view_diagonals(400, seed=0)
    half = len(jacobian) // 2
    assert relative(per_view[0], jacobian[:half].square().sum(dim=0).view_as(problem.rows)) < 0.2
    assert torch.equal(linearized.view_diagonals(2, seed=5), linearized.view_diagonals(2, seed=5))


def test_masked_pixels_do_not_exist():
    gaussians, seen = blobs(4, seed=0), cameras([0.0, 0.2], 9)
    images, masks = photographs(seen), torch.ones(2, 9, 9, 1).double()
    masks[:, :4] = 0
    spoiled = torch.where(masks > 0.5, images, float("nan"))
    whole = FrozenViews(Views(seen, images), SETTINGS, gaussians)
    masked = FrozenViews(Views(seen, spoiled, masks), SETTINGS, gaussians)
    kept = (masks > 0.5).expand_as(images).flatten()
    torch.testing.assert_close(
        masked.residual(gaussians).flatten(), torch.where(kept, whole.residual(gaussians).flatten(), 0)
    )
    jacobian = dense_jacobian(whole, gaussians.pack())[kept]
    linearized, tangents = masked.linearize(gaussians), torch.randn(4, 14).double()
    assert not linearized.jvp(tangents)[:, :4].any()
    assert relative(linearized.curvature(tangents).flatten(), jacobian.mT @ (jacobian @ tangents.flatten())) < 1e-12
    assert relative(linearized.view_diagonals(400, 0).sum(0).flatten(), jacobian.square().sum(0)) < 0.15


def test_differences_move_no_gaussian_far():
    """The step follows the largest displacement, positions in units of the Gaussian or of a pixel."""
    gaussians, seen = smooth_scene()
    moved = []

    def draw(scene):
        moved.append(scene)
        return render(scene, seen[:1], SETTINGS, "cpu")

    tangents = gaussians.map(lambda tensor: 1e3 * torch.randn_like(tensor))
    difference_jvp(draw, gaussians, tangents, seen[:1])
    away = [(moved[0].pack() - gaussians.pack()).abs(), (moved[1].pack() - gaussians.pack()).abs()]
    assert max(part[:, 3:].max() for part in away) < 1.01e-2
    unit = gaussians.scales.amax(dim=1, keepdim=True).exp()
    assert 0 < max((part[:, :3] / unit).max() for part in away) < 1.01e-2


def test_refusals():
    gaussians, seen = blobs(2, seed=0), cameras([0.0], 5)
    views = Views(seen, photographs(seen))
    with pytest.raises(ValueError, match="background is random.*choose a fixed colour"):
        ContextViews(views, replace(RasterSettings(), background="random"))
    with pytest.raises(ValueError, match="no context views"):
        ContextViews(Views(seen[:0], views.images[:0]))
    with pytest.raises(ValueError, match="context images require a gradient.*detach"):
        ContextViews(Views(seen, views.images.clone().requires_grad_()))
    with pytest.raises(ValueError, match="Unrolling differentiates gradients.*backend='reference'"):
        ContextViews(views, SETTINGS, "cpu").check_twice_differentiable(gaussians)
    ContextViews(views, SETTINGS).check_twice_differentiable(gaussians)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("products", ["list", "differences"])
def test_gsplat_products(products, monkeypatch):
    rules = reverse_only.installed_image_rules()
    if products == "differences":
        monkeypatch.setattr(reverse_only, "MAX_LISTED_PAIRS", 0)
    gaussians, seen = random_scene(2000, 200, 130)
    settings = replace(SETTINGS, image_rules=rules)
    exact, exact_seen = gaussians.to(torch.float64), seen.to(torch.float64)
    twin = ContextViews(Views(exact_seen, photographs(exact_seen)), settings, "reference").linearize(exact)
    on_gpu, seen_there = gaussians.to("cuda"), seen.to("cuda")
    linearized = ContextViews(Views(seen_there, photographs(seen).to("cuda")), settings).linearize(on_gpu)
    tangents, images = torch.randn_like(on_gpu.pack()), torch.randn_like(linearized.residual())
    assert (linearized.residual().cpu() - twin.residual()).abs().max() < 6e-3
    assert relative(linearized.vjp(images).cpu().double(), twin.vjp(images.cpu().double())) < 5e-3
    product = linearized.jvp(tangents)
    expected = twin.jvp(tangents.cpu().double()).flatten()
    similarity = torch.nn.functional.cosine_similarity(product.cpu().double().flatten(), expected, dim=0)
    assert similarity > (0.999 if products == "list" else 0.9)
    one, other = (images * product).double().sum(), (linearized.vjp(images) * tangents).double().sum()
    assert abs(one - other) < 5e-2 * images.double().norm() * product.double().norm()
    linearized.view_diagonals(probes=1, seed=0)
