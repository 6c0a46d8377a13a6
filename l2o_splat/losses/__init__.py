"""The photometric loss of an inner step: 0.8 L1 + 0.2 (1 - SSIM), mean over pixels, sum over views.

The reduction makes a step on eight views see the sum of eight gradients, which is what learned
rules are trained with. Rendered images are not clamped to 0..1.

On the CPU, float32 images go through one pass that computes value and gradient view by view
(:mod:`l2o_splat.losses.fused`). The torch version below is its twin, and works for every other type and device; on CUDA
the package ``fused-ssim`` computes its SSIM term where it is installed and no mask is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from l2o_splat.compiler import numba_works

if TYPE_CHECKING:
    from l2o_splat.losses.fused import ViewLoss

WINDOW = 11
"""Side of the SSIM window in pixels; the map is ``WINDOW - 1`` pixels smaller than the images."""
SIGMA = 1.5
"""Standard deviation of the Gaussian SSIM window, pixels."""
_HEIGHTS = [math.exp(-((k - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for k in range(WINDOW)]
WINDOW_WEIGHTS = [height / sum(_HEIGHTS) for height in _HEIGHTS]
"""Weights of the window along one axis."""
C1, C2 = 0.01**2, 0.03**2
"""Stabilisers of SSIM for intensities in 0..1 (Wang et al. 2004, equations 6 and 9)."""

PIXELS_AT_ONCE = 2**24
"""Views are compared together up to so many pixels in all, and one by one if they are larger: SSIM takes 180 bytes a
pixel while it is computed and 48 afterwards, and a card has memory for a few views of 12 megapixels, not for eight."""


def photometric_loss(
    rendered: Float[Tensor, "v h w 3"],
    images: Float[Tensor, "v h w 3"],
    masks: Float[Tensor, "v h w 1"] | None = None,
    ssim_weight: float = 0.2,
) -> Float[Tensor, ""]:
    """``(1 - ssim_weight) L1 + ssim_weight (1 - SSIM)``, mean over pixels and channels, sum over views.

    Args:
        rendered: Rendered views, sRGB, not clamped.
        images: Photographs, sRGB 0 to 1.
        masks: A pixel counts where its mask exceeds 0.5. The others, even if not finite, change neither
            the value nor the gradient. Means are taken over the pixels that count; an SSIM window that
            touches a masked pixel does not count, and a view with nothing that counts contributes 0.
        ssim_weight: Share of the SSIM term, 0 to 1.

    Differentiable once, with respect to ``rendered`` only; ``images`` are constants.

    Raises:
        ValueError: If the shapes differ, or the images are smaller than the SSIM window.
    """
    _check_shapes(rendered, images, masks)
    if _fused_view_loss() is not None and all(t.dtype == torch.float32 and t.is_cpu for t in (rendered, images)):
        needed = rendered.requires_grad and torch.is_grad_enabled()
        return _FusedLoss.apply(rendered, images, masks, ssim_weight, needed)
    at_once = views_at_once(*rendered.shape[1:3])
    parts = rendered.split(at_once)
    masks_of_parts = [None] * len(parts) if masks is None else masks.split(at_once)
    return sum(
        _loss_in_torch(*_prepare(*part), ssim_weight)
        for part in zip(parts, images.split(at_once), masks_of_parts, strict=True)
    )


def views_at_once(height: int, width: int) -> int:
    """Views of a size that the torch version compares together."""
    return max(PIXELS_AT_ONCE // max(height * width, 1), 1)


def _loss_in_torch(rendered: Tensor, images: Tensor, counted: Tensor | None, ssim_weight: float) -> Tensor:
    loss = (1 - ssim_weight) * _l1(rendered, images, counted)
    if ssim_weight:
        loss = loss + ssim_weight * _ssim_loss(rendered, images, counted)
    return loss


def squared_loss(
    rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Float[Tensor, "v h w 1"] | None = None
) -> Float[Tensor, ""]:
    """Squared difference, mean over all pixels and channels, sum over views: the image loss precisions are made for.

    Args:
        rendered: Rendered views, sRGB, not clamped.
        images: Photographs, sRGB 0 to 1.
        masks: Where a mask does not exceed 0.5 the difference counts as 0, in a mean over all pixels still, so that
            the weight of the others beside the proximal term stays the same.
    """
    difference = rendered - images
    if masks is not None:
        difference = torch.where(masks > 0.5, difference, 0)
    return difference.square().mean(dim=(1, 2, 3)).sum()


def l1(
    rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Float[Tensor, "v h w 1"] | None = None
) -> Float[Tensor, ""]:
    """Absolute difference, mean over the pixels that count, sum over views."""
    return _l1(*_prepare(rendered, images, masks))


def ssim_loss(
    rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"], masks: Float[Tensor, "v h w 1"] | None = None
) -> Float[Tensor, ""]:
    """1 - SSIM, mean over the windows that touch no masked pixel, sum over views."""
    return _ssim_loss(*_prepare(rendered, images, masks))


def ssim_map(rendered: Float[Tensor, "v h w 3"], images: Float[Tensor, "v h w 3"]) -> Float[Tensor, "v h-10 w-10 3"]:
    """Structural similarity of every whole window (Wang et al. 2004, equation 13).

    Differentiable once, with respect to ``rendered`` only; ``images`` are constants.

    Raises:
        ValueError: If the images are smaller than the window.
    """
    require_whole_window(*rendered.shape[1:3])
    return _SsimMap.apply(rendered, images.detach())


def require_whole_window(height: int, width: int) -> None:
    """Refuse images that are smaller than the SSIM window.

    Raises:
        ValueError: If either side is.
    """
    if min(height, width) < WINDOW:
        raise ValueError(
            f"The images are {width} x {height} pixels; "
            f"SSIM needs at least {WINDOW} x {WINDOW}: use larger images or ssim_weight=0."
        )


def equal_where_masked(
    rendered: Float[Tensor, "*v h w 3"], images: Float[Tensor, "*v h w 3"], masks: Float[Tensor, "*v h w 1"] | None
) -> tuple[Float[Tensor, "*v h w 3"], Float[Tensor, "*v h w 3"]]:
    """Both images, black where a pixel does not count (where its mask is at most 0.5), so that they do not differ."""
    if masks is None:
        return rendered, images
    counted = masks > 0.5
    return torch.where(counted, rendered, 0), torch.where(counted, images, 0)


def _prepare(rendered: Tensor, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both images, equal where pixels do not count, and the pixels that do as [v h w 1] booleans (None: all)."""
    _check_shapes(rendered, images, masks)
    if masks is None:
        return rendered, images, None
    return *equal_where_masked(rendered, images, masks), masks > 0.5


def _check_shapes(rendered: Tensor, images: Tensor, masks: Tensor | None) -> None:
    if rendered.shape != images.shape or (masks is not None and masks.shape != (*images.shape[:3], 1)):
        found = f"rendered {tuple(rendered.shape)}, images {tuple(images.shape)}"
        found += "" if masks is None else f", masks {tuple(masks.shape)}"
        raise ValueError(f"The loss got {found}; [v, h, w, 3] twice and masks [v, h, w, 1] are needed.")


def _l1(rendered: Tensor, images: Tensor, counted: Tensor | None) -> Tensor:
    difference = (rendered - images).abs()
    if counted is None:
        return difference.mean(dim=(1, 2, 3)).sum()
    return _masked_mean(difference, counted).sum()


def _ssim_loss(rendered: Tensor, images: Tensor, counted: Tensor | None) -> Tensor:
    if counted is None and _on_cuda(rendered) and rendered.dtype == torch.float32 and _fused_ssim() is not None:
        require_whole_window(*rendered.shape[1:3])
        planes = (batch.permute(0, 3, 1, 2).contiguous() for batch in (rendered, images.detach()))
        return len(rendered) * (1 - _fused_ssim()(*planes, padding="valid", train=True))
    dissimilarity = 1 - ssim_map(rendered, images)
    if counted is None:
        return dissimilarity.mean(dim=(1, 2, 3)).sum()
    masked = (~counted).to(dissimilarity.dtype).permute(0, 3, 1, 2)
    whole = F.max_pool2d(masked, WINDOW, stride=1).permute(0, 2, 3, 1) == 0
    return _masked_mean(dissimilarity, whole).sum()


def _on_cuda(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _fused_ssim() -> Callable[..., Tensor] | None:
    """Mean SSIM of a batch of planes by the package fused-ssim (Taming 3DGS); None if it is not installed."""
    try:
        from fused_ssim import fused_ssim
    except ImportError:
        return None
    return fused_ssim


def _fused_view_loss() -> Callable[..., ViewLoss] | None:
    """The loss of one view on the CPU; None if numba is not installed."""
    if not numba_works():
        return None
    from l2o_splat.losses.fused import view_loss

    return view_loss


def _masked_mean(values: Float[Tensor, "v h w 3"], counted: Tensor) -> Float[Tensor, " v"]:
    """Mean of each view over the pixels that count; 0 for a view that has none."""
    total = torch.where(counted, values, values.new_zeros(())).sum(dim=(1, 2, 3))
    return total / (counted.sum(dim=(1, 2, 3)) * values.shape[3]).clamp(min=1)


def _blur_axis(values: Tensor, dim: int) -> Tensor:
    """Window average along one axis, whole windows only; sums of shifted copies outrun convolutions on CPUs."""
    size = values.shape[dim] - WINDOW + 1
    blurred = values.narrow(dim, 0, size) * WINDOW_WEIGHTS[0]
    for k in range(1, WINDOW):
        blurred.add_(values.narrow(dim, k, size), alpha=WINDOW_WEIGHTS[k])
    return blurred


def _blur(images: Float[Tensor, "v h w 3"]) -> Float[Tensor, "v h-10 w-10 3"]:
    return _blur_axis(_blur_axis(images, 1), 2)


def _blur_adjoint(maps: Float[Tensor, "v h-10 w-10 3"]) -> Float[Tensor, "v h w 3"]:
    """Transpose of :func:`_blur`: the window is symmetric, so it is the same blur of zero-padded maps."""
    border = WINDOW - 1
    return _blur_axis(F.pad(_blur_axis(F.pad(maps, (0, 0, border, border)), 2), (0, 0, 0, 0, border, border)), 1)


class _SsimMap(torch.autograd.Function):
    """SSIM with a backward pass that keeps five maps instead of the twenty that autograd would."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        mean_x, mean_y = _blur(x), _blur(y)
        squared_means, product_means = mean_x.square().add_(mean_y.square()), mean_x * mean_y
        # Only the sum of both variances enters, so that one blur serves x^2 and y^2.
        variances = _blur(x.square().add_(y.square())).sub_(squared_means)
        covariance = _blur(x * y).sub_(product_means)
        numerator = product_means.mul_(2).add_(C1)
        numerator_structure = covariance.mul_(2).add_(C2)
        denominator, denominator_structure = squared_means.add_(C1), variances.add_(C2)
        scale = (denominator * denominator_structure).reciprocal_()
        ssim = numerator * numerator_structure * scale
        if ctx.needs_input_grad[0]:
            by_product = numerator * scale * 2
            by_square = ssim / denominator_structure
            by_mean = mean_y * (numerator_structure - numerator) * scale
            by_mean.add_(mean_x * (by_square - ssim / denominator)).mul_(2)
            ctx.save_for_backward(x, y, by_mean, by_square, by_product)
        return ssim

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        x, y, by_mean, by_square, by_product = ctx.saved_tensors
        gradient = _blur_adjoint(grad * by_mean)
        gradient.addcmul_(_blur_adjoint(grad * by_square), x, value=-2)
        gradient.addcmul_(_blur_adjoint(grad * by_product), y)
        return gradient, None


class _FusedLoss(torch.autograd.Function):
    """The photometric loss, view by view; its gradient is made together with its value."""

    @staticmethod
    def forward(
        ctx, rendered: Tensor, images: Tensor, masks: Tensor | None, ssim_weight: float, needed: bool
    ) -> Tensor:
        view_loss, loss = _fused_view_loss(), 0.0
        gradient = torch.empty_like(rendered, memory_format=torch.contiguous_format) if needed else None
        for v in range(len(rendered)):
            mask = None if masks is None else (masks[v, ..., 0] > 0.5).numpy()
            view = rendered[v].contiguous().numpy(), images[v].contiguous().numpy()
            loss += view_loss(*view, mask, ssim_weight, gradient[v].numpy() if needed else None).loss
        if needed:
            ctx.save_for_backward(rendered, gradient)
        return rendered.new_tensor(loss)

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rendered, gradient = ctx.saved_tensors
        if upstream != 1:
            gradient = gradient * upstream
        if torch.is_grad_enabled():
            gradient = _Once.apply(gradient, rendered)
        return gradient, None, None, None, None


class _Once(torch.autograd.Function):
    """Refuses to be differentiated; without it, second derivatives would silently lack their part of the loss."""

    @staticmethod
    def forward(ctx, gradient: Tensor, rendered: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, unused: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "The gradient of the photometric loss was differentiated, and it has no second derivatives for float32 "
            "images on the CPU; use first derivatives only, or squared_loss."
        )
