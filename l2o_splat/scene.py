"""What is known of a scene: its training cameras, and where an initializer lets it start."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.views import PinholeCameras, Views


def reach(camera_centres: Float[Tensor, "v 3"]) -> float:
    """Largest distance of a camera from the mean of all, scene units."""
    return float((camera_centres - camera_centres.mean(dim=0)).norm(dim=1).max())


def scene_extent(camera_centres: Float[Tensor, "v 3"]) -> float:
    """1.1 x the largest distance of a camera from the mean of all (as gsplat's trainer), scene units."""
    return 1.1 * reach(camera_centres)


@dataclass(frozen=True)
class SceneKnowledge:
    """What an update rule may know of a scene before the first step; see ``UpdateRule.bind``."""

    centres: Float[Tensor, "v 3"]
    """Centres of the training cameras, scene units."""
    rescaled_by: float = 1.0
    """Scene units per unit of the dataset (nerfstudio's ``dataparser_scale``)."""
    context: PinholeCameras | None = None
    """Cameras of the context views; None if the scene has none."""

    @property
    def extent(self) -> float:
        """:func:`scene_extent`, or 1 if all cameras are in one place."""
        return scene_extent(self.centres) or 1.0


@dataclass(frozen=True)
class SceneStart:
    """Where a scene starts: what every initializer returns, and what an update rule's state begins with."""

    gaussians: Gaussians
    """World frame, scene units."""
    features: Float[Tensor, "n f"] | None = None
    """What the initializer knows of each Gaussian; None if it has no features."""
    precision: Float[Tensor, "n 5"] | None = None
    """How strongly each Gaussian is held near its start, see :mod:`l2o_splat.optim.precision`; None if the initializer
    predicts none."""
    context: Views | None = None
    """The views that the Gaussians come from, at the size that the initializer saw; None if it looked at no images."""
    cell: Int[Tensor, " n"] | None = None
    """Cell of the grids over the context views that each Gaussian was predicted from, counted view by view and row by
    row. None if none was, or if there is one Gaussian for each cell in this order."""

    def at(self, index: Tensor | slice) -> SceneStart:
        """The start of the Gaussians at ``index`` (integers, a boolean mask or a slice), from the same context."""
        return replace(
            self,
            gaussians=self.gaussians[index],
            features=None if self.features is None else self.features[index],
            precision=None if self.precision is None else self.precision[index],
            cell=None if self.cell is None else self.cell[index],
        )
