"""Residuals of a scene on its context views, and products with their Jacobian.

Parameters, tangents and gradients are packed rows ``[n, d]`` (``Gaussians.pack``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.checks import check_background
from l2o_splat.implicit.pair_list import ListedLinearization, draw_pairs, list_pairs
from l2o_splat.implicit.reverse_only import ReverseOnlyLinearization, installed_image_rules
from l2o_splat.rendering import Backend, Linearization, RasterSettings, Rendering, backend_for, linearize, render
from l2o_splat.views import PinholeCameras, Views

PRODUCTS_TOLERANCE = 0.3
"""Relative mismatch of both products above which one of them must be wrong rather than rounded."""


class LinearizedViews:
    """The residual r = render - photograph near one point, and products with its Jacobian J.

    Pixels that are masked out have residual 0 and do not depend on anything.
    """

    def __init__(self, parts: Sequence[Linearization], residual: Tensor, counted: Tensor | None) -> None:
        """``parts`` has one linearization per view; ``counted`` are booleans ``[v, h, w, 1]``, None for all pixels."""
        self._parts = parts
        self._residual = residual
        self._counted = counted

    def residual(self) -> Float[Tensor, "v h w 3"]:
        """r at the point."""
        return self._residual

    def jvp(self, tangents: Float[Tensor, "n d"]) -> Float[Tensor, "v h w 3"]:
        """J v: how the residual changes along ``tangents``."""
        unpacked = Gaussians.unpack(tangents)
        return torch.cat([self._mask(part.jvp(unpacked).rgb, view) for view, part in enumerate(self._parts)])

    def vjp(self, cotangents: Float[Tensor, "v h w 3"]) -> Float[Tensor, "n d"]:
        """J^T u: gradient of the inner product of the residual with ``cotangents``."""
        return sum(self._view_vjp(view, cotangents[view : view + 1]) for view in range(len(self._parts)))

    def curvature(self, tangents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """J^T J v, the Gauss-Newton approximation of the Hessian of 1/2 |r|^2, one view after the other."""
        unpacked = Gaussians.unpack(tangents)
        return sum(self._view_vjp(view, part.jvp(unpacked).rgb) for view, part in enumerate(self._parts))

    def view_diagonals(self, probes: int, seed: int) -> Float[Tensor, "v n d"]:
        """Estimates of the diagonal of J^T J view by view, from random signs: the mean of (J^T z)^2.

        Unbiased and not negative. Squared per view, so that views do not disturb one another when they are added up.

        Raises:
            RuntimeError: If J v and J^T u are not products with the same matrix; a renderer without forward mode may
                answer with zeros.
        """
        generator = torch.Generator(self._residual.device).manual_seed(seed)
        squares: list[Tensor] = []
        for view in range(len(self._parts)):
            shape = self._residual[view : view + 1].shape
            total = None
            for probe in range(probes):
                signs = torch.randint(0, 2, shape, generator=generator, device=self._residual.device)
                signs = (2 * signs - 1).to(self._residual.dtype)
                gradient = self._view_vjp(view, signs)
                if probe == 0:
                    self._check_products(view, signs, gradient)
                total = gradient.square() if total is None else total + gradient.square()
            squares.append(total / probes)
        return torch.stack(squares)

    def _view_vjp(self, view: int, cotangent: Float[Tensor, "1 h w 3"]) -> Float[Tensor, "n d"]:
        masked = self._mask(cotangent, view)
        return self._parts[view].vjp(Rendering(masked, torch.zeros_like(masked[..., :1]))).pack()

    def _mask(self, image: Float[Tensor, "1 h w 3"], view: int) -> Float[Tensor, "1 h w 3"]:
        return image if self._counted is None else torch.where(self._counted[view : view + 1], image, 0)

    def _check_products(self, view: int, signs: Tensor, gradient: Tensor) -> None:
        """<z, J J^T z> must be |J^T z|^2."""
        expected = gradient.double().square().sum()
        image = self._mask(self._parts[view].jvp(Gaussians.unpack(gradient)).rgb, view)
        found = (image.double() * signs.double()).sum()
        if not (found - expected).abs() <= PRODUCTS_TOLERANCE * expected:
            raise RuntimeError(
                f"The renderer's Jacobian products contradict each other in view {view}: <z, J J^T z> is {found:.3g}, "
                f"but |J^T z|^2 is {expected:.3g}; use a backend whose forward mode works, such as 'reference'."
            )


class ContextViews:
    """The photographs that Gaussians are refined on, and how they are drawn.

    Args:
        views: Cameras and photographs of the Gaussians' dtype and device; all views are used in every step.
        settings: What changes the image.
        backend: As for :func:`l2o_splat.rendering.render`; None chooses the fastest that can.

    Raises:
        ValueError: If the background is not a fixed colour, or cameras or photographs ask for a gradient, which the
            layer does not give.
    """

    def __init__(self, views: Views, settings: RasterSettings | None = None, backend: Backend | None = None) -> None:
        settings = settings or RasterSettings()
        check_background(settings.background)
        if len(views) == 0:
            raise ValueError("There are no context views to refine on; give at least one.")
        tensors = {"images": views.images, "viewmats": views.cameras.viewmats, "Ks": views.cameras.Ks}
        for name, tensor in tensors.items():
            if tensor.requires_grad:
                raise ValueError(f"The context {name} require a gradient, which the layer does not give; detach them.")
        self.cameras = views.cameras
        self.settings = replace(settings, depth=False)
        self.backend = backend
        self.counted: Bool[Tensor, "v h w 1"] | None = views.counted
        self.images: Float[Tensor, "v h w 3"] = (
            views.images if self.counted is None else torch.where(self.counted, views.images, 0)
        )

    def draw(self, gaussians: Gaussians) -> Float[Tensor, "v h w 3"]:
        """Images of all views, differentiable to the Gaussians as often as the backend can."""
        return render(gaussians, self.cameras, self.settings, self.backend).rgb

    def residual(self, gaussians: Gaussians) -> Float[Tensor, "v h w 3"]:
        """Render minus photograph, sRGB, 0 where a pixel does not count; differentiable."""
        drawn = self.draw(gaussians)
        return (drawn if self.counted is None else torch.where(self.counted, drawn, 0)) - self.images

    def linearize(self, gaussians: Gaussians) -> LinearizedViews:
        """Residual and Jacobian products at ``gaussians``."""
        gaussians = gaussians.detach()
        parts = [self._linearize_view(gaussians, view) for view in range(len(self.cameras))]
        drawn = torch.cat([part.rendering.rgb for part in parts])
        if self.counted is not None:
            drawn = torch.where(self.counted, drawn, 0)
        return LinearizedViews(parts, drawn - self.images, self.counted)

    def check_twice_differentiable(self, gaussians: Gaussians) -> None:
        """Raise ``ValueError`` if the images cannot be differentiated twice."""
        if self.backend != "reference" and (self.backend is not None or gaussians.means.dtype == torch.float32):
            raise ValueError(
                "Unrolling differentiates gradients, which only the torch renderer can; use backend='reference', or "
                "another backward mode."
            )

    def _linearize_view(self, gaussians: Gaussians, view: int) -> Linearization:
        camera = self._camera(view)
        if (self.backend or backend_for(gaussians)) == "gsplat":
            settings = replace(self.settings, image_rules=installed_image_rules())
            return ReverseOnlyLinearization(
                gaussians, lambda scene: render(scene, camera, self.settings, "gsplat"), camera, settings
            )
        return linearize(gaussians, camera, self.settings, self.backend)

    def _camera(self, view: int) -> PinholeCameras:
        return self.cameras[view : view + 1]


class FrozenViews(ContextViews):
    """Context views on which what is drawn where, and in which order, is decided once.

    Without depth orders that change and splats that enter and leave pixels, the inner problem is smooth, and can be
    solved and differentiated exactly. Slow, and right only near the Gaussians it was made for.

    Args:
        views: As for :class:`ContextViews`.
        settings: As for :class:`ContextViews`.
        gaussians: The scene for which the decisions are taken.
    """

    def __init__(self, views: Views, settings: RasterSettings | None, gaussians: Gaussians) -> None:
        super().__init__(views, settings, "reference")
        cameras = [self._camera(view) for view in range(len(self.cameras))]
        self._pairs = [list_pairs(gaussians.detach(), camera, self.settings) for camera in cameras]

    def draw(self, gaussians: Gaussians) -> Float[Tensor, "v h w 3"]:
        drawn = [
            draw_pairs(gaussians, pairs, self._camera(view), self.settings).rgb
            for view, pairs in enumerate(self._pairs)
        ]
        return torch.cat(drawn)

    def _linearize_view(self, gaussians: Gaussians, view: int) -> Linearization:
        return ListedLinearization(gaussians, self._pairs[view], self._camera(view), self.settings)
