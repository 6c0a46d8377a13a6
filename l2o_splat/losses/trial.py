"""One tiny loss, so that its kernels are compiled before a run needs them."""

from __future__ import annotations

import numpy as np

from l2o_splat.losses import WINDOW


def compile_loss() -> None:
    """Compile the kernels of a loss with and without SSIM, or read their machine code from disk."""
    from l2o_splat.losses.fused import view_loss

    image = np.zeros((WINDOW, WINDOW, 3), np.float32)
    for ssim_weight in (0.2, 0.0):
        view_loss(image, image, np.ones((WINDOW, WINDOW), bool), ssim_weight, np.empty_like(image))
