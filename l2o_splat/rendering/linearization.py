"""The rendering function near one point, for methods that multiply with its Jacobian again and again."""

from __future__ import annotations

from abc import ABC, abstractmethod

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering.output import Rendering


class Linearization(ABC):
    """Images of a scene, and products with their Jacobian J by the Gaussians' parameters.

    Nothing about the point is computed twice: which Gaussians are visible where is found once. The scene is copied, so
    that later changes to the given tensors do not matter.
    """

    @property
    @abstractmethod
    def rendering(self) -> Rendering:
        """The images at the point, without a graph."""

    @abstractmethod
    def jvp(self, tangents: Gaussians) -> Rendering:
        """J v: how the images change along ``tangents``."""

    @abstractmethod
    def vjp(self, cotangents: Rendering) -> Gaussians:
        """J^T u: gradient of the inner product of the images with ``cotangents``. Depth may be None."""
