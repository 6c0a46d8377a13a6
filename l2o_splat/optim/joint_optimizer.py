"""Adapter that lets one update rule drive a training loop written for ``torch.optim``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter

from l2o_splat.errors import L2OError
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.averaged_scene import AveragedScene, weight_of_newest
from l2o_splat.optim.migration import FORMAT, migrated
from l2o_splat.optim.named_tensors import check_named_tensors, check_new_group, check_no_others
from l2o_splat.optim.rule import Feedback, FeedbackKind, RenderedViews, RuleState, UpdateRule
from l2o_splat.rendering.evidence import Evidence, EvidenceKind
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.schedule.controller import Gains

logger = logging.getLogger(__name__)

MAX_REFUSED_STEPS = 20
"""After so many refused steps in a row the run cannot recover, and the next one is an error."""

CHECKED_GAUSSIANS = 500
"""Gaussians of the step that shows whether a rule can work on a scene."""

AVERAGE = "average"
"""Entry of a saved state for the average of the last scenes."""

BOOKKEEPING = ("rule", "format", "step", "scene_extent")
"""Entries of the first param group that belong to the optimizer itself."""


class RuleMismatchError(L2OError, ValueError):
    """A checkpoint was trained with another rule than the one that should resume it."""


class JointOptimizer(torch.optim.Optimizer):
    """All parameters of a scene, moved together by one :class:`UpdateRule`.

    It has one named param group per field, so that loops and loggers written for ``torch.optim`` work unchanged. ``lr``
    of a group, 1 at first, is a factor of the steps of its field, for torch's schedulers. A field whose parameter has
    ``requires_grad=False`` is frozen: the rule sees no gradient and no moments of it, and its tensor and its moments
    stay as they are.

    Everything a resumed run needs is in ``state_dict()`` as plain tensors and numbers: the two parts of the rule's
    :class:`RuleState` under the means, ``lr`` in every param group, and step count, scene extent and the rule's
    fingerprint in the first one.

    Args:
        parameters: The six fields; any mapping (a ``ParameterDict``) will do.
        rule: Moves the parameters. Its own weights are not optimized and not saved here.

    Rules whose rates are in units of the capture need :meth:`bind` before the first step.

    Raises:
        TypeError: If the parameters are no mapping of tensors.
        KeyError: If a field is missing.
        ValueError: If a field has another shape, or there are others.
    """

    def __init__(self, parameters: Mapping[str, Parameter], rule: UpdateRule) -> None:
        check_named_tensors(parameters, FIELDS)
        check_no_others(parameters, FIELDS)
        Gaussians.from_mapping(parameters)  # Names the field that is misshapen.
        groups: list[dict[str, Any]] = [{"params": [parameters[name]], "name": name} for name in FIELDS]
        groups[0] |= {"rule": rule.fingerprint, "format": FORMAT, "step": 0, "scene_extent": 1.0}
        super().__init__(groups, defaults={"lr": 1.0})
        self.rule = rule
        self.loss: Float[Tensor, ""] | None = None
        """Loss of the step to come; see ``Feedback.loss``."""
        self.rendered: RenderedViews | None = None
        """Context views of the step to come, if it is one with renders; see ``Feedback.rendered``."""
        self.progress: float | None = None
        """Share of the time budget spent before the step to come; see ``Feedback.progress``."""
        self.evidence: Evidence | None = None
        """Evidence of the step to come, see ``Feedback.evidence``; :attr:`evidence_kinds` says what is needed."""
        self.pixels: float | None = None
        """Pixels of a photograph of the step to come; see ``Feedback.pixels``."""
        self.gains: Gains | None = None
        """Factors that a controller asks for in the step to come; see ``Feedback.gains``."""
        self.average: AveragedScene | None = None
        """Average of the last scenes; None unless :meth:`keep_average` was called."""
        self._start = SceneStart(self.gaussians)
        self._refused_steps = 0

    @property
    def gaussians(self) -> Gaussians:
        """The parameters as they are now, without a graph; shares their memory."""
        return Gaussians(**{group["name"]: group["params"][0].detach() for group in self.param_groups})

    @property
    def inner_step(self) -> int:
        """Steps taken so far, resumed ones included."""
        return self.param_groups[0]["step"]

    @property
    def feedback_kind(self) -> FeedbackKind:
        """What the rule gets in the step to come."""
        return self.rule.needs.feedback_at(self.inner_step)

    @property
    def evidence_kinds(self) -> frozenset[EvidenceKind]:
        """What evidence the rule makes use of in the step to come."""
        return self.rule.needs.evidence_at(self.inner_step)

    @property
    def rule_state(self) -> RuleState | None:
        """What the rule remembers; None before the first step."""
        saved = self.state[self._means]
        return RuleState(saved["per_gaussian"], saved["per_scene"]) if saved else None

    def insight(self) -> dict[str, Float[Tensor, " n"]]:
        """What the rule knows of each Gaussian, see :meth:`UpdateRule.insight`; nothing before the first step."""
        state = self.rule_state
        return {} if state is None else self.rule.insight(state, self.inner_step)

    @property
    def _present_start(self) -> SceneStart:
        """What the initializer knows, with the Gaussians as they are now."""
        return replace(self._start, gaussians=self.gaussians)

    def _remember(self, state: RuleState) -> None:
        self.state[self._means] = {"per_gaussian": state.per_gaussian, "per_scene": state.per_scene}

    @property
    def _means(self) -> Parameter:
        return self.param_groups[0]["params"][0]

    def bind(self, scene: SceneKnowledge, start: SceneStart | None = None) -> None:
        """Give the rule what is known of the scene, before the first step or a saved state is loaded.

        Args:
            scene: The cameras.
            start: What the initializer knows of each Gaussian; the rule takes what it can use. Its Gaussians are those
                that the parameters hold.
        """
        self.rule = self.rule.bind(scene)
        self.param_groups[0] |= {"rule": self.rule.fingerprint, "scene_extent": scene.extent}
        self._start = self.rule.needs.select(start or SceneStart(self.gaussians))

    def keep_average(self) -> None:
        """Keep an average of the scenes that steps leave, from the present one on; see :meth:`follow_average`."""
        self.average = self._new_average()

    def _new_average(self) -> AveragedScene:
        return AveragedScene({group["name"]: group["params"][0] for group in self.param_groups})

    def follow_average(self, steps: float) -> None:
        """Let the average take in the scene after a step.

        Args:
            steps: Scenes before this one that it reaches over; 0 takes this one alone.
        """
        self.average.follow(weight_of_newest(self.inner_step - 1, steps))

    @torch.no_grad()
    def step(self, closure=None):
        """Apply the rule once to the gradients the parameters hold, or to the renders that ``rendered`` holds.

        In steps with renders the rule gets no gradients, whatever the parameters hold. A step with non-finite
        gradients or deltas is refused as a whole: parameters and state stay as they are, and a warning names field,
        count and step.

        Raises:
            FloatingPointError: when more than ``MAX_REFUSED_STEPS`` steps in a row had to be refused.
            RuntimeError: If the parameters hold the average, which no step may change.
        """
        if self.average is not None and self.average.is_shown:
            raise RuntimeError("The parameters hold the average of the last scenes; call average.show(False) first.")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rendered, self.rendered = self.rendered, None  # Of this step alone.
        evidence, self.evidence = self.evidence, None
        gradients = None
        if self.feedback_kind == "gradients":
            if all(group["params"][0].grad is None for group in self.param_groups if not _is_frozen(group)):
                return loss
            gradients = Gaussians(**{group["name"]: _gradient(group) for group in self.param_groups})
        gaussians, state = self.gaussians, self.rule_state
        extent = self.param_groups[0]["scene_extent"]
        feedback = Feedback(
            gradients, self.inner_step, extent, rendered, self.loss, self.progress, evidence, self.pixels, self.gains
        )
        new_state = None
        if all(not _is_frozen(group) and float(group["lr"]) == 1 for group in self.param_groups):
            begun = self.rule.init_state(self._present_start) if state is None else state
            new_state = self.rule.step_in_place(gaussians, feedback, begun)
        if new_state is None:
            # A step that cannot be taken in place, or not safely, is computed whole before anything changes.
            new_state = self._step_by_deltas(gaussians, feedback, state)
        if new_state is not None:
            self._refused_steps = 0
            self._remember(new_state)
            self.param_groups[0]["step"] += 1
        return loss

    def _step_by_deltas(self, gaussians: Gaussians, feedback: Feedback, state: RuleState | None) -> RuleState | None:
        """Take a step and return the state after it; None, and nothing has changed, if it is refused."""
        if feedback.gradients is not None and self._refuses("gradients", feedback.gradients):
            return None
        if state is None:
            state = self.rule.init_state(self._present_start)
        frozen = [group["name"] for group in self.param_groups if _is_frozen(group)]
        delta, new_state = self.rule(gaussians, feedback, self.rule.with_moments(state, frozen))
        delta = Gaussians(**{group["name"]: _scaled(delta, group) for group in self.param_groups})
        if self._refuses("deltas", delta):
            return None
        for name, value in delta.items():
            if name not in frozen:
                getattr(gaussians, name).add_(value)
        return self.rule.with_moments(new_state, frozen, state)

    @torch.no_grad()
    def check_scene(self) -> None:
        """Refuse a scene that the rule cannot work on, by a step on some of the Gaussians; nothing changes.

        Rules that begin with renders have their start checked alone, since there are no renders yet.

        Raises:
            ValueError: If there are too few Gaussians, or the start lacks what the rule needs.
        """
        start = self._present_start
        if self.rule.needs.feedback_at(0) == "renders":
            self.rule.init_state(start)
            return
        # After a resume from another start there may be fewer rows of features than Gaussians.
        known = [rows for rows in (start.features, start.precision) if rows is not None]
        start = start.at(slice(min([CHECKED_GAUSSIANS, len(start.gaussians), *map(len, known)])))
        feedback = Feedback(start.gaussians.map(torch.ones_like), 0, self.param_groups[0]["scene_extent"])
        self.rule(start.gaussians, feedback, self.rule.init_state(start))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Called by torch for the six fields.

        Raises:
            ValueError: If there are more.
        """
        check_new_group(self.param_groups, FIELDS)
        super().add_param_group(param_group)

    def _refuses(self, what: str, values: Gaussians) -> bool:
        counts = values.count_non_finite()
        if not counts:
            return False
        self._refused_steps += 1
        found = ", ".join(f"{count} in {name}" for name, count in counts.items())
        message = f"Step {self.inner_step} refused: {what} hold NaN or infinite numbers ({found})"
        if self._refused_steps > MAX_REFUSED_STEPS:
            raise FloatingPointError(
                f"{message}, as in the {MAX_REFUSED_STEPS} steps before; go on from the last checkpoint with smaller "
                "rates, or look for broken images or poses."
            )
        logger.warning("%s; parameters stay as they are.", message)
        return True

    def resize(
        self,
        gaussians: Gaussians,
        source: Int[Tensor, " m"],
        fresh: Bool[Tensor, " m"],
        halves: Bool[Tensor, " m"] | None = None,
    ) -> None:
        """Change the number of Gaussians from n to m, parameters and rows of state together.

        Args:
            gaussians: The m new Gaussians.
            source: Old index each of them comes from.
            fresh: True for those that were added rather than kept, and begin as at the start of a run.
            halves: True for those that are one of two parts of what they come from, and go on as it went, each with
                half of the gradient. None if there are none.

        Raises:
            ValueError: when the three do not have the same length, or an index is out of range.
        """
        n, m = len(self._means), len(gaussians)
        if source.shape != (m,) or fresh.shape != (m,):
            raise ValueError(
                f"There are {m} new Gaussians, source has shape {tuple(source.shape)} and fresh {tuple(fresh.shape)}; "
                "give one entry per new Gaussian."
            )
        if m and not 0 <= int(source.min()) <= int(source.max()) < n:
            raise ValueError(f"source runs from {int(source.min())} to {int(source.max())}; there are {n} Gaussians.")
        if self.rule_state is None:
            self._start = self._present_start.at(source)
        else:
            # What the initializer knew is in the state by now.
            state = self.rule.resize_state(self.rule_state, source, fresh)
            self._remember(state if halves is None else self.rule.with_shared_moments(state, halves, 0.5))
        if self.average is not None:
            self.average.resized(gaussians, source)
        for group in self.param_groups:
            parameter = group["params"][0]
            # The Parameter object stays, so that whoever else holds it sees the new size.
            parameter.data = getattr(gaussians, group["name"]).detach().to(parameter).clone()
            parameter.grad = None

    def forget_moments(self, fields: Collection[str]) -> None:
        """Set the averages of some fields' gradients to zero, where those fields were set to other values."""
        if self.rule_state is not None:
            self._remember(self.rule.with_moments(self.rule_state, fields))

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        return saved if self.average is None else saved | {AVERAGE: self.average.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a saved state.

        Raises:
            RuleMismatchError: when the state was written by another rule, or the same with other options.
        """
        state_dict = migrated(state_dict, self.rule)
        saved = state_dict["param_groups"][0].get("rule", "an optimizer per field")
        if saved != self.rule.fingerprint:
            raise RuleMismatchError(
                f"The checkpoint was trained with rule [{saved}], this run uses [{self.rule.fingerprint}]; "
                "resume with the same rule, weights and horizon, or train without a checkpoint to load."
            )
        groups = [{"lr": 1.0} | group for group in state_dict["param_groups"]]  # Earlier versions had no lr.
        super().load_state_dict(state_dict | {"param_groups": groups})
        # torch casts per-parameter state to the parameter's dtype; counters and indices must stay integers.
        if rows := state_dict["state"].get(0):
            device = self._means.device
            self.state[self._means] = {
                part: {name: value.detach().to(device, copy=True) for name, value in rows[part].items()}
                for part in ("per_gaussian", "per_scene")
            }
        if AVERAGE in state_dict:
            # A run that keeps none goes on with the scene all the same.
            (self.average or self._new_average()).load(state_dict[AVERAGE])
        elif self.average is not None:
            self.keep_average()


def _is_frozen(group: dict[str, Any]) -> bool:
    return not group["params"][0].requires_grad


def _gradient(group: dict[str, Any]) -> Tensor:
    """The gradient of a group's parameter; zero if it has none or is frozen."""
    (parameter,) = group["params"]
    return torch.zeros_like(parameter) if parameter.grad is None or _is_frozen(group) else parameter.grad


def _scaled(delta: Gaussians, group: dict[str, Any]) -> Tensor:
    """The step of a group's field."""
    step, lr = getattr(delta, group["name"]), float(group["lr"])
    return step if lr == 1 else lr * step
