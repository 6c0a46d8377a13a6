"""What episodes start from: sparse points, or what a frozen initial model predicts from the context views."""

from __future__ import annotations

from typing import Protocol

import torch

from l2o_splat.initializers.context_views import depth_range
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.scene import SceneStart
from l2o_splat.scenes.capture import Points
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.views import Views
from l2o_splat.weights import load_weights


class Start(Protocol):
    """Makes the scene that an episode begins with."""

    def __call__(self, context: Views, points: Points, options: PointInitOptions) -> SceneStart:
        """The scene.

        Args:
            context: Photographs that it may be made from.
            points: Sparse points of the capture.
            options: How points become Gaussians.

        Raises:
            UnusableCaptureError: If the capture lacks what the start needs.
        """
        ...


def start_from_points(context: Views, points: Points, options: PointInitOptions) -> SceneStart:
    """One Gaussian per sparse point; the context views only tell the device."""
    try:
        gaussians = gaussians_from_points(points.xyz, points.rgb, options)
    except ValueError as error:
        raise UnusableCaptureError(str(error)) from error
    return SceneStart(gaussians.to(context.images.device))


class ReSplatStart:
    """Gaussians and features of ReSplat's initial model (arXiv 2510.08575), as Learn2Splat's sparse training uses it.

    Args:
        initializer: Its initial model is frozen.
    """

    def __init__(self, initializer: ReSplatInitializer) -> None:
        self.initializer = initializer.eval().requires_grad_(False)

    @classmethod
    def from_weights(cls, name: str, device: torch.device) -> ReSplatStart:
        """The start of weights by name or path.

        Raises:
            WeightsError: If there are no such weights, or they have no initial model.
        """
        return cls(ReSplatInitializer.from_weights(load_weights(name, "resplat")).to(device))

    @property
    def feature_width(self) -> int:
        """Numbers per Gaussian of the features."""
        return self.initializer.model.shape.width

    @property
    def needs_points(self) -> bool:
        """Whether the depths considered come from the sparse points of a capture."""
        return self.initializer.config.depth_range == "points"

    def __call__(self, context: Views, points: Points, options: PointInitOptions) -> SceneStart:
        try:
            limits = None
            if self.needs_points:
                limits = depth_range(points.xyz.to(context.images.device), context.cameras)
            return self.initializer(context, 1.0, limits, points=(points.xyz, points.rgb) if len(points) else None)
        except ValueError as error:
            raise UnusableCaptureError(str(error)) from error
