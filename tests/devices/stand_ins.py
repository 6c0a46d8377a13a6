"""What a run on the card finds in place of gsplat and CUDA."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from l2o_splat import rendering
from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit import linearized_views
from l2o_splat.plugin import photograph_loading, pipeline, trainer
from l2o_splat.rendering import RasterSettings, gsplat, rendered_loss
from l2o_splat.views import PinholeCameras
from tests.devices.card import CARD, CardWatch


class _Drawn(torch.autograd.Function):
    """Images of the CPU backend, whose tensors lie on the card."""

    @staticmethod
    def forward(ctx, card, settings, size, viewmats, Ks, *tensors: Tensor):
        leaves = [card.host(tensor).clone().requires_grad_() for tensor in tensors]
        cameras = PinholeCameras(card.host(viewmats), card.host(Ks), *size)
        with torch.enable_grad():
            means, quats, scales, opacities, colours = leaves
            opacities = opacities.clamp(1e-6, 1 - 1e-6).logit()[:, None]
            gaussians = Gaussians(means, scales.log(), quats, opacities, colours[:, 0], colours[:, 1:])
            drawn = rendering.render(gaussians, cameras, settings, "cpu")
        ctx.card, ctx.leaves, ctx.images = card, leaves, [image for image in vars(drawn).values() if image is not None]
        return tuple(card.put(image.detach().clone()) for image in ctx.images)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        gradients = [ctx.card.host(gradient).clone() for gradient in gradients]
        found = torch.autograd.grad(ctx.images, ctx.leaves, gradients, retain_graph=True)
        return *(None,) * 5, *(ctx.card.put(gradient) for gradient in found)


class GsplatOfCard:
    """gsplat as far as the package calls it."""

    def __init__(self, watch: CardWatch) -> None:
        self.watch = watch

    def rasterization(
        self, means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane, eps2d,
        sh_degree, packed, backgrounds, render_mode, rasterize_mode, absgrad,
    ):  # fmt: skip
        """Images [v, h, w, 3], with depth [v, h, w, 4], and alpha; see gsplat's documentation."""
        tensors = (means, quats, scales, opacities, colors, viewmats, Ks, backgrounds)
        assert all(tensor.device == CARD for tensor in tensors), "gsplat takes tensors of the card"
        settings = RasterSettings(
            rasterize_mode, eps2d, near_plane, far_plane, tuple(self.watch.card.host(backgrounds[0]).tolist()),
            sh_degree, render_mode == "RGB+ED",
        )  # fmt: skip
        arguments = (viewmats, Ks, means, quats, scales, opacities, colors)
        rgb, alpha, *depth = _Drawn.apply(self.watch.card, settings, (width, height), *arguments)
        # Nobody looks at centres and radii while training without density control.
        meta = {"means2d": means[..., :2], "radii": means[..., 2]}
        return torch.cat([rgb, *depth], dim=-1), alpha, meta


class _SameThread:
    """In place of a pool of threads."""

    map = staticmethod(map)


def install(monkeypatch, watch: CardWatch) -> None:
    """Let the package take ``meta`` for CUDA."""
    chosen, autocast, generator = rendering.backend_for, torch.autocast, torch.Generator

    def backend_for(gaussians, products=False):
        return "gsplat" if gaussians.device == CARD and not products else chosen(gaussians, products)

    for module in (rendering, rendered_loss, linearized_views):
        monkeypatch.setattr(module, "backend_for", backend_for)
    monkeypatch.setattr(gsplat, "can_draw", lambda gaussians: gaussians.device == CARD)
    monkeypatch.setattr(gsplat, "_gsplat", lambda: GsplatOfCard(watch))
    monkeypatch.setattr(linearized_views, "installed_image_rules", lambda: "1.4")
    # Networks stay in float32, as torch has no bfloat16 autocast for this device; the CPU's tests cover that.
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda device_type, *args, **options: (
            nullcontext() if device_type == "meta" else autocast(device_type, *args, **options)
        ),
    )
    on_host = lambda device="cpu": generator("cpu" if torch.device(device) == CARD else device)  # noqa: E731
    monkeypatch.setattr(torch, "Generator", on_host)
    # A watch sees what its own thread does.
    monkeypatch.setattr(photograph_loading, "ThreadPoolExecutor", lambda num_threads: nullcontext(_SameThread()))
    monkeypatch.setattr(trainer, "wait_for", lambda device: watch.waits.add("everything"))
    # It is compared with a picture that is known; no card is needed for that.
    monkeypatch.setattr(pipeline, "draw_trial_image", lambda device: None)
