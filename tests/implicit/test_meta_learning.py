"""Five numbers, one precision per group, learned through the layer: the whole chain does what it is for.

Noisy photographs from one side are fitted and views from the left and right are judged. With hardly any precision the
noise is fitted too; how much precision each group needs is learned from the judged views of other scenes.
"""

import math
from dataclasses import replace

import torch

from l2o_splat.implicit.backward_mode import BackwardMode
from l2o_splat.implicit.layer import proximal_refine
from l2o_splat.implicit.linearized_views import FrozenViews
from l2o_splat.implicit.pcg import PCG
from l2o_splat.implicit.solvers import AdamSolver
from l2o_splat.optim.adam import SPLATFACTO, Rates
from l2o_splat.rendering import render
from l2o_splat.views import Views
from tests.implicit.scenes import SETTINGS, Toy, blobs, cameras, disturbed

INNER = AdamSolver(steps=60, options=replace(SPLATFACTO, rates=Rates(*[0.06] * 6)))
"""Large rates: the run ends near a minimum, as ``implicit`` assumes."""


def noisy_view(seed: int) -> Toy:
    truth = blobs(4, seed)
    anchor = disturbed(truth, 0.1, seed + 100)
    generator, views = torch.Generator().manual_seed(seed + 200), []
    for angles, noise in (([0.0], 0.08), ([-0.8, 0.8], 0.0)):
        seen = cameras(angles, 8)
        images = render(truth, seen, SETTINGS).rgb
        images = images + noise * torch.randn(images.shape, generator=generator, dtype=images.dtype)
        views.append(FrozenViews(Views(seen, images), SETTINGS, anchor))
    return Toy(anchor, torch.empty(0), *views)


def refined(scene: Toy, logarithms: torch.Tensor, backward: BackwardMode):
    """The refined Gaussians for natural logarithms of five precisions."""
    precision = logarithms.exp().expand(len(scene.anchor), 5)
    return proximal_refine(scene.anchor, precision, scene.context, INNER, backward, PCG(max_iterations=16))


def decibels(scenes: list[Toy], logarithms: torch.Tensor) -> float:
    """Mean PSNR in the judged views."""
    errors = [
        scene.targets.residual(refined(scene, logarithms, BackwardMode.FIRST_ORDER)[0]).square().mean()
        for scene in scenes
    ]
    return -10 * torch.stack(errors).log10().mean().item()


def learn(backward: BackwardMode, steps: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms before and after training on 16 scenes, one per step."""
    start = torch.full((5,), math.log(1e-3), dtype=torch.float64)
    logarithms = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logarithms], lr=0.3)
    scenes = [noisy_view(seed) for seed in range(16)]
    for step in range(steps):
        scene = scenes[step % len(scenes)]
        gaussians, status = refined(scene, logarithms, backward)
        optimizer.zero_grad()
        scene.targets.residual(gaussians).square().mean().log().backward()
        if status.failure is None:
            optimizer.step()
    return start, logarithms.detach()


def test_five_learned_precisions_gain_three_decibels():
    start, learned = learn(BackwardMode.IMPLICIT)
    held_out = [noisy_view(seed) for seed in range(1000, 1008)]
    before, after = decibels(held_out, start), decibels(held_out, learned)
    assert after - before > 3, (before, after, learned)
    assert learned.isfinite().all() and (learned > start).all()
