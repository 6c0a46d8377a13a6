"""Episodes: training scenes, from their initializer through their inner steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
from l2o_splat.meta.options import EpisodeOptions
from l2o_splat.optim.rule import RuleState, UpdateRule
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.scenes.capture import Capture
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.view_sampling import ViewSampler
from l2o_splat.views import Views


@dataclass(frozen=True)
class Episode:
    """A scene, the views that train it, and the state of its optimization."""

    index: int
    """Index of the capture in its source; with the same options it gives the same episode again."""
    context: Views
    """Views that inner steps see."""
    target: Views
    """Views that only the meta-loss sees."""
    sampler: ViewSampler
    """Chooses the context views of each inner step."""
    scene: SceneKnowledge
    gaussians: Gaussians
    """The scene after ``step`` inner steps, without a graph."""
    state: RuleState
    """State of the rule; it has a graph only within a recorded unroll."""
    step: int = 0
    """Inner steps taken."""

    def moved(self, gaussians: Gaussians, state: RuleState) -> Episode:
        """The episode one inner step later: the scene without its graph, the state as given."""
        return replace(self, gaussians=gaussians.detach(), state=state, step=self.step + 1)

    def detached(self) -> Episode:
        """The same episode with the graph cut off from its state."""
        return replace(self, state=self.state.detach())

    @property
    def inner_views(self) -> Views:
        """Context views of the next inner step."""
        return self.context[self.sampler.views(self.step)]


def start_episode(
    rule: UpdateRule, capture: Capture, index: int, options: EpisodeOptions, seed: int, device: torch.device
) -> Episode:
    """The episode of a capture before its first inner step; a function of the arguments alone.

    Raises:
        UnusableCaptureError: If the capture has too few views.
    """
    random = np.random.default_rng((seed, index))
    views, points = capture.views, capture.points
    if random.random() < options.flip_probability:
        views, points = views.mirrored(), points.mirrored()
    if len(views) <= options.target_views:
        raise UnusableCaptureError(
            f"Capture {index} has {len(views)} views; {options.target_views} targets and at least one more are needed."
        )
    order = random.permutation(len(views)).tolist()
    target = sorted(order[: options.target_views])
    few, many = options.context_views
    wanted = round(math.exp(random.uniform(math.log(few), math.log(many))))
    context = sorted(order[options.target_views :][:wanted])
    kept = max(int(len(points) * random.uniform(*options.kept_points)), 16)
    gaussians = gaussians_from_points(
        points.xyz,
        points.rgb,
        PointInitOptions(
            num_points=min(kept, options.max_points),
            drop_black=options.drop_black,
            sh_degree=options.sh_degree,
            seed=int(random.integers(1 << 31)),
        ),
    ).to(device)
    context_views = views[context].to(device)
    centres = context_views.cameras.centres
    sampler = ViewSampler(
        centres.cpu().numpy(),
        int(random.integers(options.views_per_step[0], options.views_per_step[1] + 1)),
        "fps",
        seed=int(random.integers(1 << 31)),
    )
    return Episode(
        index,
        context_views,
        views[target].to(device),
        sampler,
        SceneKnowledge(centres),
        gaussians,
        rule.init_state(SceneStart(gaussians)),
    )
