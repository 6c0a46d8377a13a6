"""A training loop of one's own: gsplat's densification around a learned optimizer, on a small built-in capture.

Run it with ``python examples/gsplat_strategy.py --steps 300``. gsplat draws on CUDA, this package's renderer elsewhere.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from gsplat import rasterization
from gsplat.strategy import DefaultStrategy
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from l2o_splat import LearnedOptimizer
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.losses import photometric_loss
from l2o_splat.optim.learned_optimizer import as_gaussians, as_splats
from l2o_splat.rendering import render
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.views import PinholeCameras, Views


def draw_with_gsplat(splats: ParameterDict, cameras: PinholeCameras) -> tuple[Tensor, dict]:
    """Images [v, h, w, 3], and what gsplat tells about the Gaussians on the screen."""
    sh = torch.cat([splats["sh0"], splats["shN"]], dim=1)
    tensors = splats["means"], splats["quats"], splats["scales"].exp(), splats["opacities"].sigmoid(), sh
    size = cameras.width, cameras.height
    images, _, info = rasterization(*tensors, cameras.viewmats, cameras.Ks, *size, sh_degree=3, packed=False)
    return images, info


def draw_on_cpu(splats: ParameterDict, cameras: PinholeCameras) -> tuple[Tensor, dict]:
    """The same without CUDA.

    A strategy wants the gradient to each centre on the screen, in pixels. Here that is the gradient to an offset of
    zero pixels, which moves the Gaussian parallel to the image of one camera.
    """
    scene = as_gaussians(splats)
    offsets = torch.zeros(len(cameras), len(scene), 2, requires_grad=True)
    images = []
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        focal = torch.stack([camera.Ks[0, 0, 0], camera.Ks[0, 1, 1]])
        shift = offsets[view] * camera.depths(scene.means.detach())[0][:, None] / focal
        moved = replace(scene, means=scene.means + shift @ camera.viewmats[0, :2, :3])
        images.append(render(moved, camera).rgb)
    info = {"means2d": offsets, "width": cameras.width, "height": cameras.height, "gaussian_ids": None}
    return torch.cat(images), info


def train(splats: ParameterDict, views: Views, strategy: DefaultStrategy, steps: int) -> LearnedOptimizer:
    """Train splats on all views; the strategy changes their number."""
    cameras, on_cuda = views.cameras, splats["means"].is_cuda
    draw = draw_with_gsplat if on_cuda else draw_on_cpu
    optimizer = LearnedOptimizer(splats)
    params, optimizers = optimizer.for_strategy()
    strategy.check_sanity(params, optimizers)
    centres = cameras.centres
    state = strategy.initialize_state(scene_scale=1.1 * (centres - centres.mean(dim=0)).norm(dim=1).max().item())
    # From 1 on: gsplat 1.4 would reset all opacities in step 0.
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        images, info = draw(splats, cameras)
        info["n_cameras"] = 1  # The loss is a sum over views; strategies take it for their mean.
        loss = photometric_loss(images, views.images)
        strategy.step_pre_backward(params, optimizers, state, step, info)
        loss.backward()
        if not on_cuda:
            info["radii"] = info["means2d"].grad.any(dim=2)  # Above 0 for what a view has drawn.
        optimizer.step()
        strategy.step_post_backward(params, optimizers, state, step, info)
        if step in (1, steps) or step % 50 == 0:
            print(f"Step {step}: loss {loss.item() / len(views):.4f} per view, {len(splats['means'])} Gaussians.")
    return optimizer


def main() -> None:
    """Train on eight views of a procedural scene."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    device = "cuda" if torch.cuda.is_available() else "cpu"
    capture = generate(0, ProceduralOptions(num_views=8, width=96, height=64, num_points=600))
    start = gaussians_from_points(capture.points.xyz, capture.points.rgb).to(device)
    splats = ParameterDict({name: Parameter(value.clone()) for name, value in as_splats(start).items()})
    strategy = DefaultStrategy(
        refine_start_iter=20, refine_every=20, refine_stop_iter=2 * steps // 3, reset_every=10 * steps, verbose=True
    )
    train(splats, capture.views.to(device), strategy, steps)


if __name__ == "__main__":
    main()
