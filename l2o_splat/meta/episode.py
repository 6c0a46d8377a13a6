"""Episodes: training scenes, from their initializer through their inner steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from l2o_splat.frame import Frame, FrameConvention
from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.context_views import choose_context
from l2o_splat.initializers.points import PointInitOptions
from l2o_splat.meta.options import EpisodeOptions
from l2o_splat.meta.starts import Start, start_from_points
from l2o_splat.optim.rule import RuleState, UpdateRule
from l2o_splat.scene import SceneKnowledge
from l2o_splat.scenes.capture import Capture, SampledCapture
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
    rule: UpdateRule,
    capture: Capture,
    index: int,
    options: EpisodeOptions,
    seed: int,
    device: torch.device,
    start: Start = start_from_points,
    convention: FrameConvention = "raw",
) -> Episode:
    """The episode of a capture before its first inner step; a function of the arguments alone.

    Args:
        rule: Its state begins with the scene; where gradients are on, it keeps a graph to the rule's weights.
        capture: Its views are drawn, unless a sampler has chosen them together.
        index: Index of the capture in its source.
        options: How views and points are drawn.
        seed: Of the draws, together with the index.
        device: Where the episode lives.
        start: Makes the scene.
        convention: Frame that the weights of the rule are trained in; the whole episode lives in it.

    Raises:
        UnusableCaptureError: If the capture has too few views, or lacks what the start needs.
    """
    random = np.random.default_rng((seed, index))
    views, points = capture.views, capture.points
    if random.random() < options.flip_probability:
        views, points = views.mirrored(), points.mirrored()
    context, target = _draw_views(capture, index, options, random)
    kept = max(int(len(points) * random.uniform(*options.kept_points)), 16)
    from_points = PointInitOptions(
        num_points=min(kept, options.max_points),
        drop_black=options.drop_black,
        sh_degree=options.sh_degree,
        seed=int(random.integers(1 << 31)),
    )
    context_views = views[context].to(device)
    world = context_views.cameras.centres
    scene = start(context_views, points, from_points)
    frame = Frame.from_cameras(convention, world)
    if not frame.is_identity:
        context_views = frame.views_to_local(context_views)
        scene = replace(scene, gaussians=frame.to_local(scene.gaussians))
    centres = context_views.cameras.centres
    sampler = ViewSampler(
        world.cpu().numpy(),
        int(random.integers(options.views_per_step[0], options.views_per_step[1] + 1)),
        options.view_strategy,
        seed=int(random.integers(1 << 31)),
    )
    target_views = views[target].to(device)
    return Episode(
        index,
        context_views,
        target_views if frame.is_identity else frame.views_to_local(target_views),
        sampler,
        SceneKnowledge(centres),
        scene.gaussians,
        rule.init_state(rule.needs.select(scene)),
    )


def _draw_views(
    capture: Capture, index: int, options: EpisodeOptions, random: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Indices of context and target views."""
    if isinstance(capture, SampledCapture):
        return list(capture.context), list(capture.target)
    count = len(capture.views)
    if count <= options.target_views:
        raise UnusableCaptureError(
            f"Capture {index} has {count} views; {options.target_views} targets and at least one more are needed."
        )
    order = random.permutation(count).tolist()
    target, others = sorted(order[: options.target_views]), order[options.target_views :]
    few, many = options.context_views
    wanted = round(math.exp(random.uniform(math.log(few), math.log(many))))
    if options.context_choice == "random":
        return sorted(others[:wanted]), target
    others = sorted(others)
    return [others[i] for i in choose_context(capture.views.cameras.centres[others], wanted)], target
