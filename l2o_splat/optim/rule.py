"""The update rule: one pure function that moves all parameters of a scene at once."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.rendering.evidence import Evidence, EvidenceKind
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.schedule.controller import Gains
from l2o_splat.views import Views
from l2o_splat.weights.format import WeightsCard

FeedbackKind = Literal["gradients", "renders"]
"""What a rule gets in a step: the gradient of the loss, or renders of the context views."""

Columns = slice | Int[Tensor, " c"]
"""Some columns of rows of Gaussians."""


class Moments(NamedTuple):
    """Where a state keeps averages of one field's gradients, one row per Gaussian."""

    name: str
    """Name of the tensor in ``per_gaussian``."""
    columns: Columns
    """Columns of the field in that tensor."""
    power: int
    """1 for averages of gradients, 2 for those of their squares."""


@dataclass(frozen=True, eq=False)
class RuleState(Mapping[str, Tensor]):
    """What a rule remembers between steps, as plain tensors of any dtype.

    Reading ``state[name]`` finds a tensor in either part, so a name may stand in one of them only.
    """

    per_gaussian: dict[str, Tensor] = field(default_factory=dict)
    """Tensors with one row per Gaussian, ``"n ..."``; they follow when Gaussians are added or removed."""
    per_scene: dict[str, Tensor] = field(default_factory=dict)
    """Numbers of the whole scene; they stay when Gaussians are added or removed."""

    def __getitem__(self, name: str) -> Tensor:
        return self.per_gaussian[name] if name in self.per_gaussian else self.per_scene[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.per_gaussian, *self.per_scene))

    def __len__(self) -> int:
        return len(self.per_gaussian) + len(self.per_scene)

    def __or__(self, other: RuleState) -> RuleState:
        """Both states as one; tensors of the second replace those of the first with the same name."""
        return RuleState(self.per_gaussian | other.per_gaussian, self.per_scene | other.per_scene)

    def updated(self, **per_gaussian: Tensor) -> RuleState:
        """The same with some tensors of ``per_gaussian`` replaced or added."""
        return replace(self, per_gaussian=self.per_gaussian | per_gaussian)

    def without(self, *names: str) -> RuleState:
        """The same without the tensors of these names."""
        parts = (self.per_gaussian, self.per_scene)
        return RuleState(*({name: value for name, value in part.items() if name not in names} for part in parts))

    def at(self, index: Tensor) -> RuleState:
        """The rows at ``index`` of what is per Gaussian; the scene's numbers as they are."""
        return replace(self, per_gaussian={name: rows[index] for name, rows in self.per_gaussian.items()})

    def detach(self) -> RuleState:
        """The same tensors without a graph."""
        parts = (self.per_gaussian, self.per_scene)
        return RuleState(*({name: value.detach() for name, value in part.items()} for part in parts))

    def nested(self, prefix: str) -> RuleState:
        """This state under names that begin with ``prefix.``, as part of the state of another rule."""
        parts = (self.per_gaussian, self.per_scene)
        return RuleState(*({f"{prefix}.{name}": value for name, value in part.items()} for part in parts))

    def part(self, prefix: str) -> RuleState:
        """What :meth:`nested` made, under its own names again; empty if there is no such part."""
        start = f"{prefix}."
        parts = (self.per_gaussian, self.per_scene)
        return RuleState(
            *(
                {name.removeprefix(start): value for name, value in part.items() if name.startswith(start)}
                for part in parts
            )
        )


@dataclass(frozen=True)
class ContextNeeds:
    """Which context views a rule needs if the initializer used none."""

    num_views: int = 8
    """Views, or all there are."""
    size_multiple: int = 1
    """Sides are multiples of this, pixels."""
    longer_side: int | None = None
    """Larger views are reduced to this, pixels; None keeps the size that is trained at."""
    fit: Literal["squeeze", "crop", "enlarge"] = "squeeze"
    """How sides become such multiples, see :func:`l2o_splat.initializers.context_views.fit`."""
    portrait: bool = True
    """Whether views may be higher than wide."""
    least_views: int = 1
    """Fewest views that the rule can work with."""


@dataclass(frozen=True)
class Needs:
    """What a rule needs from the training loop and from the start of a scene. Loops read it, initializers deliver."""

    renders: tuple[tuple[int, int | None], ...] = ()
    """Inner steps ``[first, last)`` in which the rule gets renders of the context views instead of gradients; a last
    step of None has no end."""
    context: ContextNeeds | None = None
    """Context views that stay the same throughout; None if the rule needs none."""
    context_steps: float = 0
    """First inner steps in which gradients are those of the context views, all of them in each; inf for all steps."""
    features: tuple[int, ...] = ()
    """Widths of initializer features that the rule's state can start from."""
    own_start: bool = False
    """Whether the rule works only on scenes that the initial model of its own weights made."""
    precision: bool = False
    """Whether it needs to know how strongly each Gaussian is held."""
    fixed_steps: float = 0
    """First inner steps in which Gaussians can be removed but not added; inf for all steps."""
    evidence: tuple[tuple[int, int | None, EvidenceKind], ...] = ()
    """Inner steps ``[first, last)`` in which the rule makes use of evidence, and of which kind."""

    def feedback_at(self, step: int) -> FeedbackKind:
        """What the rule gets in its inner step ``step``, counted from 0; the other kind need not be computed."""
        inside = any(first <= step and (last is None or step < last) for first, last in self.renders)
        return "renders" if inside else "gradients"

    def evidence_at(self, step: int) -> frozenset[EvidenceKind]:
        """What evidence the rule makes use of in its inner step ``step``; the rest need not be computed."""
        return frozenset(kind for first, last, kind in self.evidence if first <= step and (last is None or step < last))

    def then(self, other: Needs, after: int) -> Needs:
        """The needs of one rule for ``after`` steps and of another one, which holds no Gaussians, from then on."""
        until = [(first, after if last is None else min(last, after)) for first, last in self.renders if first < after]
        beyond = [(first + after, None if last is None else last + after) for first, last in other.renders]
        evidence = [
            (first, after if last is None else min(last, after), kind)
            for first, last, kind in self.evidence
            if first < after
        ]
        later_evidence = [
            (first + after, None if last is None else last + after, kind) for first, last, kind in other.evidence
        ]
        return Needs(
            renders=(*until, *beyond),
            context=self.context or other.context,
            context_steps=min(self.context_steps, after),
            features=self.features,  # The second rule starts afresh.
            own_start=self.own_start,
            precision=self.precision or other.precision,
            fixed_steps=min(self.fixed_steps, after),
            evidence=(*evidence, *later_evidence),
        )

    def select(self, start: SceneStart) -> SceneStart:
        """The start without features and precision that the rule cannot use."""
        usable = start.features is not None and (self.own_start or start.features.shape[1] in self.features)
        return replace(
            start,
            features=start.features if usable else None,
            precision=start.precision if self.precision else None,
        )


@dataclass(frozen=True)
class RenderedViews:
    """Photographs beside what the scene looks like from the same cameras."""

    views: Views
    images: Float[Tensor, "v h w 3"]
    """Renders of the present Gaussians, sRGB, not clamped."""

    def __post_init__(self) -> None:
        if self.images.shape != self.views.images.shape:
            raise ValueError(
                f"The renders have shape {tuple(self.images.shape)} and the photographs "
                f"{tuple(self.views.images.shape)}; render the cameras of the photographs."
            )


@dataclass(frozen=True)
class Feedback:
    """What the training loop tells a rule in one inner step."""

    gradients: Gaussians | None
    """Gradient of the step's loss (mean over pixels, sum over views) with respect to every unactivated parameter; None
    in steps with renders."""
    step: int
    """Inner steps taken before this one."""
    scene_extent: float
    """1.1 x the largest distance of a training camera from their mean, scene units (as gsplat's trainer)."""
    rendered: RenderedViews | None = None
    """The context views, in steps with renders; None in the others."""
    loss: Float[Tensor, ""] | None = None
    """Loss of the step before the update, mean over pixels, mean over views; None if the training loop does not provide
    it."""
    progress: float | None = None
    """Share of the run's time budget that is spent before the step, 0 to 1, the start of the scene included; None in
    runs that count steps. With it, schedules that would follow the step number follow the budget."""
    evidence: Evidence | None = None
    """What the step's views say about each Gaussian, in the steps for which the rule needs some; None if the training
    loop does not provide it."""
    pixels: float | None = None
    """Pixels of a photograph of the step, their mean over views; None if the training loop does not provide it."""
    gains: Gains | None = None
    """Factors of rates and moments that a controller of the run asks for; None without one. Rules that have no rates of
    their own leave them alone."""


class UpdateRule(nn.Module):
    """Maps Gaussians and feedback to a delta; hand-designed and learned optimizers alike.

    A rule is pure: it keeps nothing between calls but its own weights. Everything else lives in the
    :class:`RuleState` it is handed and returns, so that saving, resuming and changing the number of Gaussians work
    for every rule in the same way. A rule's way through a run: its :attr:`needs` are read, :meth:`bind` is given the
    cameras, :meth:`init_state` the start, and :meth:`forward` every step.
    """

    trained_raster: dict[str, Any] | None = None
    """``RasterSettings`` the rule was trained with, those that differ from the defaults; None if any will do."""
    card: WeightsCard | None = None
    """Card of the weights it was built from; None for a rule without weights."""
    num_steps: int | None = None
    """Inner steps that the rule is made for; None if it has no such number."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A rule that changes another one's step must not inherit how that one takes it in place.
        if "forward" in cls.__dict__ and "step_in_place" not in cls.__dict__:
            cls.step_in_place = UpdateRule.step_in_place

    @property
    def needs(self) -> Needs:
        """What the rule needs; gradients alone unless it says otherwise."""
        return Needs()

    def bind(self, scene: SceneKnowledge) -> UpdateRule:
        """This rule for a scene whose cameras are known. Binding twice is the same as binding once."""
        return self

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Name, options and weights hash in one line; a checkpoint resumes only with the same one."""

    @abstractmethod
    def init_state(self, start: SceneStart) -> RuleState:
        """The state before the first step.

        Args:
            start: The Gaussians, and what the initializer knows about them.
        """

    @abstractmethod
    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        """One inner step.

        Returns:
            The delta to *add* to every parameter, and the state for the next step. Neither the
            Gaussians nor the given state are changed.
        """

    @torch.no_grad()
    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        """One inner step that is taken at once: the numbers are those of :meth:`forward` and an addition, bit for bit.

        Rules override it where one pass over the memory does both.

        Args:
            gaussians: They are changed.
            feedback: As for :meth:`forward`; it is not changed.
            state: Its tensors may be changed; they belong to the step from here on.

        Returns:
            The state for the next step. None if a gradient, or what would be added, is not finite or may not be:
            nothing has changed then, and :meth:`forward` shows what it is.
        """
        delta, new_state = self(gaussians, feedback, state)
        # Both at once: a GPU works on while the host learns of it.
        if not delta.all_finite(*([] if feedback.gradients is None else [feedback.gradients])):
            return None
        torch._foreach_add_([value for _, value in gaussians.items()], [value for _, value in delta.items()])
        return new_state

    def work_at(self, step: int) -> str:
        """Kind of the work in an inner step; steps of the same kind take about as long. One kind by default."""
        return ""

    def insight(self, state: RuleState, step: int) -> dict[str, Float[Tensor, " n"]]:
        """What the rule knows of each Gaussian that a person may want to see, 0 to 1, by name; nothing by default.

        Args:
            state: The present one.
            step: Inner steps taken.
        """
        return {}

    def moments(self, state: RuleState, field: str) -> list[Moments]:
        """Which numbers of a state are averages of one field's gradients; none by default.

        They are held while the field is frozen, and shared out when a Gaussian is split.
        """
        return []

    def with_moments(self, state: RuleState, fields: Collection[str], source: RuleState | None = None) -> RuleState:
        """The state with the moments of some fields taken from another state of the same Gaussians.

        Args:
            state: Any state of this rule.
            fields: Names of the fields; with none the state is returned as it is.
            source: Where the moments come from; None sets them to zero. Moments that it lacks become zero.
        """
        rows: dict[str, Tensor] = {}
        for field_name in fields:
            for name, columns, _ in self.moments(state, field_name):
                rows[name] = rows[name] if name in rows else state.per_gaussian[name].clone()
                known = source is not None and name in source.per_gaussian
                rows[name][:, columns] = source.per_gaussian[name][:, columns] if known else 0
        return state.updated(**rows) if rows else state

    def with_shared_moments(self, state: RuleState, rows: Bool[Tensor, " m"], share: float) -> RuleState:
        """The state in which some Gaussians remember the share of the gradient that falls to them.

        Args:
            state: After its rows were taken from the Gaussians that these were split from.
            rows: The parts.
            share: Of the gradient, 0.5 for halves.
        """
        shared: dict[str, Tensor] = {}
        for name, columns, power in (part for field_name in FIELDS for part in self.moments(state, field_name)):
            shared[name] = shared[name] if name in shared else state.per_gaussian[name].clone()
            values = shared[name][:, columns]
            values[rows] *= share**power
            shared[name][:, columns] = values
        return state.updated(**shared) if shared else state

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """The state after the number of Gaussians has changed from n to m.

        Args:
            state: State of the n old Gaussians.
            source: Old index each of the m new Gaussians comes from.
            fresh: True for Gaussians that were added (cloned, split, padded), False for those kept.

        Returns:
            State of the m new Gaussians: kept rows move along, added rows start at zero, and the numbers of the scene
            stay. Rules with rows that cannot start at zero or that refer to other rows (neighbour lists) override this.
        """
        moved = state.at(source)
        zeroed = {
            name: torch.where(fresh.view(-1, *[1] * (rows.ndim - 1)), torch.zeros_like(rows), rows)
            for name, rows in moved.per_gaussian.items()
        }
        return replace(moved, per_gaussian=zeroed)


def nested_moments(state: RuleState, field: str, rules: Mapping[str, UpdateRule]) -> list[Moments]:
    """:meth:`UpdateRule.moments` of rules whose states are nested in another one, by their prefixes."""
    return [
        Moments(f"{prefix}.{name}", columns, power)
        for prefix, rule in rules.items()
        if (part := state.part(prefix))
        for name, columns, power in rule.moments(part, field)
    ]


def digest_of(network: nn.Module) -> str:
    """Short hash of a network's weights, for fingerprints."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
