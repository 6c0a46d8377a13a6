"""Update rules for training loops of one's own: gsplat's tensors in, ``step()`` as any torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.growth.split import split_longest_axis
from l2o_splat.nets.knn import nearest_of
from l2o_splat.optim.joint_optimizer import BOOKKEEPING, JointOptimizer
from l2o_splat.optim.named_tensors import check_named_tensors, check_new_group, check_no_others
from l2o_splat.optim.registry import NUM_STEPS, RuleOptions, rule_entry, weights_of
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.optim.strategy_edits import RowOptimizer, StrategyEdits
from l2o_splat.scene import SceneKnowledge
from l2o_splat.weights.format import WeightsError

SPLATS = ("means", "scales", "quats", "opacities", "sh0", "shN")
"""gsplat's names of ``gaussians.FIELDS``, in the same order."""

_SHAPES = {
    "means": "[n, 3]",
    "scales": "[n, 3] (natural log)",
    "quats": "[n, 4] (w, x, y, z)",
    "opacities": "[n] (logit)",
    "sh0": "[n, 1, 3]",
    "shN": "[n, k, 3] with k = 0, 3, 8, 15 or 24",
}


def as_gaussians(splats: Mapping[str, Tensor]) -> Gaussians:
    """Splats named and shaped as in gsplat's ``simple_trainer.py``, as views: memory and graph are shared.

    Args:
        splats: ``means [n, 3]``, ``scales [n, 3]`` (natural log), ``quats [n, 4]`` (w, x, y, z),
            ``opacities [n]`` (logit), ``sh0 [n, 1, 3]`` and ``shN [n, k, 3]``; others are left out.

    Raises:
        TypeError: If they are no mapping, or one is no tensor.
        KeyError: If one is missing.
        ValueError: If one has another shape.
    """
    check_named_tensors(splats, SPLATS)
    n = next(iter(splats["means"].shape), 0)
    bands = splats["shN"].shape[1] if splats["shN"].ndim == 3 else 0
    tails = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (bands, 3)}
    for name, tail in tails.items():
        if tuple(splats[name].shape) != (n, *tail):
            raise ValueError(
                f"splats[{name!r}] has shape {list(splats[name].shape)}; {_SHAPES[name]} is needed, n = {n}."
            )
    return Gaussians(**{field: _ours(name, splats[name]) for field, name in zip(FIELDS, SPLATS, strict=True)})


def as_splats(gaussians: Gaussians) -> dict[str, Tensor]:
    """The inverse of :func:`as_gaussians`: gsplat's six names and shapes, as views."""
    return {name: _theirs(name, value) for name, (_, value) in zip(SPLATS, gaussians.items(), strict=True)}


def _ours(name: str, value: Tensor) -> Tensor:
    """One tensor in the shape that :class:`Gaussians` has it, sharing memory."""
    if name == "opacities":
        return value[:, None]
    return value[:, 0] if name == "sh0" else value


def _theirs(name: str, value: Tensor) -> Tensor:
    """One tensor in the shape that gsplat has it, sharing memory."""
    if name == "opacities":
        return value[:, 0]
    return value[:, None] if name == "sh0" else value


class LearnedOptimizer(torch.optim.Optimizer):
    """Moves all splats of a scene together, as an update rule proposes: by default the learned one of the package.

    ``step()``, ``zero_grad()`` and ``state_dict()`` work as for other torch optimizers. The rule has rates of its own:
    ``lr`` of each param group, 1 at first, is a factor of that tensor's steps, for torch's schedulers. The loss should
    be the one that learned weights were trained with: :func:`l2o_splat.losses.photometric_loss`, summed over about
    eight views per step.

    A tensor with ``requires_grad=False`` stays as it is. A step with non-finite gradients is refused as a whole, see
    :class:`JointOptimizer`.

    Args:
        splats: The six trainable tensors of a scene, float32 on one device, in a ``ParameterDict`` or dict; shapes
            as in :func:`as_gaussians`.
        weights: Of the rule; None takes those that come with the package. Or: a path,
            ``hf://owner/repo/file[@revision]``, a name in the catalogue (downloaded at the first use), ``random:SEED``
            for untrained weights of Learn2Splat (arXiv 2605.15760) that follow Adam; see
            :func:`l2o_splat.weights.load_weights`.
        camera_centres: ``[v, 3]``, of the training cameras, scene units; needed by weights that were trained on
            scenes scaled by their cameras.
        rescaled_by: Scene units per unit of the capture, if the loop has scaled the capture; used by weights
            that were trained in units of the capture.
        rule: A rule that ``ns-train`` knows too and that needs nothing but gradients, see
            :func:`l2o_splat.optim.registry.rules`.
        horizon: Steps over which rates decay, for rules whose rates do.
        options: Behaviour of the weights that is replaced, fields of :class:`l2o_splat.optim.gain.GainConfig` or
            :class:`l2o_splat.optim.learn2splat.Learn2SplatConfig`.

    Attributes:
        card: What the weights are: licence, source, and the raster settings they were trained with; None for a rule
            without weights.

    Raises:
        TypeError: If the splats are no mapping of tensors.
        KeyError: If a tensor is missing.
        ValueError: If shapes, types, names, the rule, weights (``WeightsError``) or options do not suit.
    """

    def __init__(
        self,
        splats: ParameterDict | dict[str, Parameter],
        weights: str | Path | None = None,
        camera_centres: Float[Tensor, "v 3"] | None = None,
        rescaled_by: float = 1.0,
        rule: str = "learn2splat",
        horizon: int = NUM_STEPS,
        **options: Any,
    ) -> None:
        _check(splats)
        loaded = weights_of(rule, None if weights is None else str(weights))
        if options and loaded is None:
            raise ValueError(f"Options {sorted(options)} are given, but the rule {rule} has no weights with options.")
        self.card = None if loaded is None else loaded.card
        if self.card is not None and self.card.system == "controller":
            raise WeightsError(
                f"The weights from {self.card.source} are of a controller, which decides on the views, photographs and "
                "growth of a whole run of ns-train; use weights of the systems gain or learn2splat here."
            )
        built = rule_entry(rule).build(RuleOptions(loaded, options, horizon)).to(splats["means"].device)
        _check_needs(rule, built)
        if self.card is not None and self.card.scene_frame == "cameras" and camera_centres is None:
            raise ValueError(
                f"The weights from {self.card.source} were trained on scenes scaled by their cameras; "
                "give camera_centres, [v, 3] in scene units."
            )
        super().__init__([{"params": [splats[name]], "name": name} for name in SPLATS], defaults={"lr": 1.0})
        self._splats = splats
        aliases = {name: Parameter(value) for name, value in as_gaussians(splats).detach().items()}
        self._joint = JointOptimizer(aliases, built)
        centres = torch.zeros(1, 3) if camera_centres is None else camera_centres
        self._joint.bind(SceneKnowledge(centres, rescaled_by))
        self._edits: StrategyEdits | None = None

    @property
    def inner_step(self) -> int:
        """Steps taken so far, resumed ones included."""
        return self._joint.inner_step

    @torch.no_grad()
    def step(self, closure=None):
        """Move the splats once by the gradients they hold.

        Raises:
            ValueError: If a tensor was replaced or its number of rows changed other than by the methods of this class
                or by a strategy that was given :meth:`for_strategy`.
            FloatingPointError: If too many steps in a row had non-finite gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = self._share()
        self._hand_on_options()
        for name, theirs, ours in pairs:
            ours.requires_grad_(theirs.requires_grad)
            if theirs.grad is not None and theirs.requires_grad:
                if theirs.grad.layout != torch.strided:
                    raise ValueError(f"The gradient of splats[{name!r}] is sparse; render with sparse_grad=False.")
                ours.grad = _ours(name, theirs.grad)
        self._joint.step()
        for _, _, ours in pairs:
            ours.grad = None
        return loss

    def for_strategy(self) -> tuple[dict[str, Parameter], dict[str, RowOptimizer]]:
        """What gsplat's densification strategies take for ``params`` and ``optimizers``.

        Both stay valid. What a strategy does with them (duplicate, split, remove, relocate, sample, reset opacities)
        reaches the splats at once and the rule's state before the next :meth:`step`: kept rows keep theirs, the others
        are ``fresh`` as in :meth:`resize`. The first dict holds row numbers too, to follow changes; render ``splats``.
        """
        if self._edits is None:
            self._edits = StrategyEdits(self._splats, SPLATS)
        return self._edits.params, self._edits.optimizers

    def remove(self, mask: Bool[Tensor, " n"]) -> None:
        """Take splats away.

        Args:
            mask: True for those that go.

        Raises:
            ValueError: If there is not one bool for each splat.
        """
        _, kept = self._divide(mask)
        self._replace(self._present[kept], kept, torch.zeros_like(kept, dtype=torch.bool))

    def clone(self, mask: Bool[Tensor, " n"]) -> None:
        """Append copies of some splats; they start as ``fresh`` ones, see :meth:`resize`.

        Args:
            mask: True for those that are copied.

        Raises:
            ValueError: As for :meth:`remove`.
        """
        chosen, _ = self._divide(mask)
        self._append(self._present[chosen], chosen)

    def split(self, mask: Bool[Tensor, " n"]) -> None:
        """Replace some splats by two halves each, side by side along the longest axis.

        Halves stand at the end. The image stays nearly as it was (:func:`l2o_splat.growth.split.split_longest_axis`),
        and each half goes on with the state of the whole and half of the gradients that it remembers.

        Args:
            mask: True for those that are split.

        Raises:
            ValueError: As for :meth:`remove`.
        """
        parents, kept = self._divide(mask)
        halves = split_longest_axis(self._present[parents])
        whole = self._present[kept].zip_map(lambda old, new: torch.cat([old, new]), halves)
        source = torch.cat([kept, parents.repeat_interleave(2)])
        is_half = torch.arange(len(source), device=source.device) >= len(kept)
        self._replace(whole, source, torch.zeros_like(is_half), is_half)

    def add(self, splats: Mapping[str, Tensor]) -> None:
        """Append splats that come from none of the present ones.

        They start as ``fresh`` ones that come from the nearest present splat, see :meth:`resize`.

        Args:
            splats: Values of the added ones, named and shaped as those that are there.

        Raises:
            KeyError, ValueError: If a tensor is missing, shapes differ, positions are not finite, or there is no splat.
        """
        added, present = as_gaussians(splats), self._present
        if added.sh_degree != present.sh_degree:
            raise ValueError(
                f"The added splats have colours of SH degree {added.sh_degree}, the present ones of degree "
                f"{present.sh_degree}; cut them or pad them with zeros."
            )
        self._append(added, nearest_of(added.means, present.means))

    def resize(self, splats: Mapping[str, Tensor], source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> None:
        """Change the number of splats from n to m: the mapping the optimizer was made with gets new Parameters.

        They are new objects, as after gsplat's densification, because torch cannot take another size for a
        Parameter while a graph refers to it (the loss of the last step, say).

        Args:
            splats: Values of the m new splats, named and shaped as before.
            source: Old row that each of them comes from.
            fresh: True for those that were added (cloned, split), False for those kept. Added ones start
                without moments, and with what the rule remembers of the scene.

        Raises:
            KeyError: If a tensor is missing.
            ValueError: If shapes differ, or a row is out of range.
        """
        self._replace(as_gaussians(splats), source, fresh)

    @property
    def _present(self) -> Gaussians:
        """The splats as they are, without a graph."""
        return as_gaussians(self._splats).detach()

    def _divide(self, mask: Bool[Tensor, " n"]) -> tuple[Int[Tensor, " k"], Int[Tensor, " r"]]:
        """Rows that a mask chooses, and the others."""
        n = len(self._splats["means"])
        if mask.dtype != torch.bool or mask.shape != (n,):
            raise ValueError(f"The mask is {mask.dtype} of shape {list(mask.shape)}; bool of shape [{n}] is needed.")
        mask = mask.to(self._splats["means"].device)
        return mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]

    def _append(self, added: Gaussians, source: Int[Tensor, " k"]) -> None:
        """Append fresh splats that take over what the rule remembers of the scene from those in ``source``."""
        kept = torch.arange(len(self._splats["means"]), device=source.device)
        whole = self._present.zip_map(lambda old, new: torch.cat([old, new.to(old)]), added.detach())
        source = torch.cat([kept, source])
        self._replace(whole, source, torch.arange(len(source), device=source.device) >= len(kept))

    def _replace(
        self,
        gaussians: Gaussians,
        source: Int[Tensor, " m"],
        fresh: Bool[Tensor, " m"],
        halves: Bool[Tensor, " m"] | None = None,
    ) -> None:
        """Put new Parameters into the mapping and move the rule's rows along, see :meth:`JointOptimizer.resize`."""
        pairs = self._share()
        self._joint.resize(gaussians, source, fresh, halves)
        for group, (name, theirs, ours) in zip(self.param_groups, pairs, strict=True):
            self._splats[name] = Parameter(_theirs(name, ours.data), requires_grad=theirs.requires_grad)
            group["params"] = [self._splats[name]]
        if self._edits is not None:
            self._edits.renew()

    def _follow_strategy(self) -> None:
        """Take over what a strategy has done since the last step."""
        change = None if self._edits is None else self._edits.change()
        if change is None:
            return
        self._joint.resize(as_gaussians(self._splats), change.source, change.fresh)
        fields = dict(zip(SPLATS, FIELDS, strict=True))
        self._joint.forget_moments([fields[name] for name in change.reset])
        for group in self.param_groups:
            group["params"] = [self._splats[group["name"]]]
        self._edits.renew()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the splats: a row of state for each, step number, rule and ``lr``."""
        self._follow_strategy()
        self._hand_on_options()
        return self._joint.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a saved state; load the splats themselves as well.

        Raises:
            RuleMismatchError: If it was saved with other weights, options, or cameras that scale the scene.
        """
        self._joint.load_state_dict(state_dict)
        for mine, joint in zip(self.param_groups, self._joint.param_groups, strict=True):
            mine.update(_options(joint))
        if self._edits is not None:
            self._edits.renew()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Called by torch for the six tensors.

        Raises:
            ValueError: If there are more.
        """
        check_new_group(self.param_groups, SPLATS)
        super().add_param_group(param_group)

    def _hand_on_options(self) -> None:
        """Give the joint optimizer ``lr`` and whatever else schedulers keep in param groups."""
        for mine, joint in zip(self.param_groups, self._joint.param_groups, strict=True):
            joint.update(_options(mine))

    def _share(self) -> list[tuple[str, Parameter, Parameter]]:
        """gsplat's name, the caller's Parameter and the joint optimizer's, which sees the caller's memory.

        Set anew in every step, since loops may assign to ``.data``.
        """
        self._follow_strategy()
        state = self._joint.rule_state
        rows = set() if state is None else {len(value) for value in state.per_gaussian.values()}
        pairs = []
        for mine, joint in zip(self.param_groups, self._joint.param_groups, strict=True):
            name, theirs, ours = mine["name"], mine["params"][0], joint["params"][0]
            if self._splats[name] is not theirs:
                raise ValueError(
                    f"splats[{name!r}] is another Parameter than the optimizer was made with (densification strategies "
                    "replace them); give a strategy what for_strategy() returns, assign to .data, or change the number "
                    "of splats with resize()."
                )
            if rows - {len(theirs)}:
                raise ValueError(
                    f"splats[{name!r}] has {len(theirs)} rows and the optimizer's state {max(rows)}; change the number "
                    "of splats with resize(), or load splats and state of the same run."
                )
            ours.data = _ours(name, theirs.data)
            pairs.append((name, theirs, ours))
        return pairs


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """What a param group holds besides the tensor, its name and the joint optimizer's own entries."""
    return {name: value for name, value in group.items() if name not in ("params", "name", *BOOKKEEPING)}


def _check(splats: Mapping[str, Parameter]) -> None:
    gaussians = as_gaussians(splats)
    check_no_others(splats, SPLATS)
    for name, (_, value) in zip(SPLATS, gaussians.items(), strict=True):
        if value.dtype != torch.float32 or value.device != gaussians.device:
            raise ValueError(
                f"splats[{name!r}] is {value.dtype} on {value.device}; float32 on {gaussians.device}, where the means "
                "are, is needed."
            )


def _check_needs(name: str, rule: UpdateRule) -> None:
    needs = rule.needs
    if needs.renders or needs.precision:
        missing = "renders of context views" if needs.renders else "a precision for each Gaussian"
        raise ValueError(
            f"The rule {name} needs {missing}, and a torch optimizer gets gradients alone; drive a JointOptimizer "
            "yourself (docs/library.md), or choose another rule."
        )
