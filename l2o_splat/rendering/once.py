"""A guard for backends whose gradients cannot be differentiated again."""

from __future__ import annotations

import torch
from torch import Tensor


def differentiable_once(backend: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The same tensors, through which gradients flow once; a second derivative raises ``RuntimeError``.

    A kernel called in ``backward`` leaves no trace for autograd, so second derivatives would silently lack its part.
    ``torch.autograd.function.once_differentiable`` does not help: its error is not on the path from the gradient to the
    inputs, so ``torch.autograd.grad`` never reaches it if there is another path.
    """
    needing = [tensor for tensor in tensors if tensor.requires_grad]
    guarded = iter(_Guard.apply(backend, *needing) if needing else ())
    return tuple(next(guarded) if tensor.requires_grad else tensor for tensor in tensors)


class _Guard(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.backend = backend
        ctx.save_for_backward(*tensors)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            gradients = _Barrier.apply(ctx.backend, *gradients, *ctx.saved_tensors)
        return None, *gradients


class _Barrier(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend: str, *gradients_and_tensors: Tensor) -> tuple[Tensor, ...]:
        # The gradients depend on the tensors; they are named here for autograd alone.
        ctx.backend = backend
        gradients = gradients_and_tensors[: len(gradients_and_tensors) // 2]
        return tuple(gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    def backward(ctx, *unused: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            f"The gradient of a rendering was differentiated, and the {ctx.backend} backend has no second derivatives; "
            "render with the 'reference' backend."
        )
