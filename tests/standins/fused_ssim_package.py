"""What stands in for the package fused-ssim without CUDA: its signature and rules, and numbers of our torch SSIM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2o_splat import losses
from tests.standins.gsplat_package import Fault
from tests.standins.signatures import FUSED_SSIM, signature_of


class FusedSsimPackage:
    """The module ``fused_ssim``, as far as we call it."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        """The arguments of every call of :meth:`fused_ssim`, defaults included."""

    def fused_ssim(self, *args: Any, **kwargs: Any) -> Tensor:
        """Mean SSIM over all planes; with ``padding="valid"`` 5 pixels at each edge, whose windows hang over, are out.

        Differentiable once, to ``img1``.

        Raises:
            TypeError: If the arguments do not fit the signature.
            Fault: If their values break a rule of the kernels, or ask for what is not modelled here.
        """
        bound = signature_of(FUSED_SSIM).bind(*args, **kwargs)
        bound.apply_defaults()
        self.calls.append(bound.arguments)
        img1, img2, padding, train = bound.arguments.values()
        for name, image in (("img1", img1), ("img2", img2)):
            _require(image.ndim == 4 and image.shape[1] == 3, f"{name} is {tuple(image.shape)}; [n, 3, h, w] is needed")
            _require(image.dtype == torch.float32, f"{name} is {image.dtype}; the kernels read float32")
            _require(image.is_contiguous(), f"{name} is not contiguous")
        _require(img1.shape == img2.shape and img1.device == img2.device, "both images have one shape and device")
        _require(not img2.requires_grad, "there is no gradient to img2, and nothing says so")
        _require(padding == "valid", f"padding={padding!r} is not modelled")
        _require(train or not img1.requires_grad, "there is no gradient without train=True")
        return losses.ssim_map(img1.permute(0, 2, 3, 1), img2.permute(0, 2, 3, 1)).mean()


def stand_in_for_fused_ssim(monkeypatch) -> FusedSsimPackage:
    """Let the losses take tensors of the CPU for tensors on CUDA, with the stand-in in the package's place."""
    package = FusedSsimPackage()
    monkeypatch.setattr(losses, "_on_cuda", lambda tensor: True)
    monkeypatch.setattr(losses, "_fused_view_loss", lambda: None)
    monkeypatch.setattr(losses, "_fused_ssim", lambda: package.fused_ssim)
    return package


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise Fault(rule)
