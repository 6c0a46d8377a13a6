"""A learned optimizer for training loops of one's own: gsplat's tensors in, ``step()`` as any torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter, ParameterDict

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.scene import SceneKnowledge
from l2o_splat.weights import load_weights

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
        KeyError: If one is missing.
        ValueError: If one has another shape.
    """
    missing = [name for name in SPLATS if name not in splats]
    if missing:
        raise KeyError(f"The splats lack {missing} and have {list(splats)}; all of {list(SPLATS)} are needed.")
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
    """Moves all splats of a scene together, as the network of Learn2Splat (arXiv 2605.15760) proposes.

    ``step()``, ``zero_grad()`` and ``state_dict()`` work as for other torch optimizers. There are no
    learning rates and no schedules. The loss should be the one that the weights were trained with:
    :func:`l2o_splat.losses.photometric_loss`, summed over about eight views per step.

    A step with non-finite gradients is refused as a whole, see :class:`JointOptimizer`.

    Args:
        splats: The six trainable tensors of a scene, float32 on one device, in a ``ParameterDict`` or dict; shapes
            as in :func:`as_gaussians`.
        weights: Those that come with the package, or: a path, ``hf://owner/repo/file[@revision]``, a name in the
            catalogue (downloaded at the first use), ``random:SEED`` for untrained weights that follow Adam; see
            :func:`l2o_splat.weights.load_weights`.
        camera_centres: ``[v, 3]``, of the training cameras, scene units; needed by weights that were trained on
            scenes scaled by their cameras.
        rescaled_by: Scene units per unit of the capture, where the loop has scaled the capture; used by weights
            that were trained in units of the capture.
        options: Fields of :class:`l2o_splat.optim.learn2splat.Learn2SplatConfig` that replace those of the weights.

    Attributes:
        card: What the weights are: licence, source, and the raster settings they were trained with.

    Raises:
        KeyError: If a tensor is missing.
        ValueError: If shapes, types, names, weights (``WeightsError``) or options do not suit.
    """

    def __init__(
        self,
        splats: ParameterDict | dict[str, Parameter],
        weights: str | Path = "learn2splat-mini",
        camera_centres: Float[Tensor, "v 3"] | None = None,
        rescaled_by: float = 1.0,
        **options: Any,
    ) -> None:
        _check(splats)
        loaded = load_weights(weights, "learn2splat")
        self.card = loaded.card
        rule = Learn2SplatRule.from_weights(loaded, **options).to(splats["means"].device)
        if self.card.scene_frame == "cameras" and camera_centres is None:
            raise ValueError(
                f"The weights from {self.card.source} were trained on scenes scaled by their cameras; "
                "give camera_centres, [v, 3] in scene units."
            )
        super().__init__([{"params": [splats[name]], "name": name} for name in SPLATS], defaults={})
        self._splats = splats
        aliases = {name: Parameter(value) for name, value in as_gaussians(splats).detach().items()}
        self._joint = JointOptimizer(aliases, rule)
        centres = torch.zeros(1, 3) if camera_centres is None else camera_centres
        self._joint.bind(SceneKnowledge(centres, rescaled_by))

    @property
    def inner_step(self) -> int:
        """Steps taken so far, resumed ones included."""
        return self._joint.inner_step

    @torch.no_grad()
    def step(self, closure=None):
        """Move the splats once by the gradients they hold.

        Raises:
            ValueError: If a tensor was replaced or its number of rows changed other than by :meth:`resize`.
            FloatingPointError: If too many steps in a row had non-finite gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = self._share()
        for name, theirs, ours in pairs:
            if theirs.grad is not None:
                if theirs.grad.layout != torch.strided:
                    raise ValueError(f"The gradient of splats[{name!r}] is sparse; render with sparse_grad=False.")
                ours.grad = _ours(name, theirs.grad)
        self._joint.step()
        for _, _, ours in pairs:
            ours.grad = None
        return loss

    def resize(self, splats: Mapping[str, Tensor], source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> None:
        """Change the number of splats from n to m: the mapping the optimizer was made with gets new Parameters.

        They are new objects, as after gsplat's densification, because torch cannot take another size for a
        Parameter while a graph refers to it (the loss of the last step, say).

        Args:
            splats: Values of the m new splats, named and shaped as before.
            source: Old row that each of them comes from.
            fresh: True for those that were added (cloned, split), False for those kept. Added ones start
                without moments.

        Raises:
            KeyError: If a tensor is missing.
            ValueError: If shapes differ, or a row is out of range.
        """
        pairs = self._share()
        self._joint.resize(as_gaussians(splats), source, fresh)
        for group, (name, _, ours) in zip(self.param_groups, pairs, strict=True):
            self._splats[name] = Parameter(_theirs(name, ours.data))
            group["params"] = [self._splats[name]]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the splats: a row of state for each, step number, name of the rule."""
        return self._joint.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a saved state; load the splats themselves as well.

        Raises:
            RuleMismatchError: If it was saved with other weights, options, or cameras that scale the scene.
        """
        self._joint.load_state_dict(state_dict)

    def _share(self) -> list[tuple[str, Parameter, Parameter]]:
        """gsplat's name, the caller's Parameter and the joint optimizer's, which sees the caller's memory.

        Set anew in every step, since loops may assign to ``.data``.
        """
        rows = {len(value) for value in self._joint.state[self._joint.param_groups[0]["params"][0]].values()}
        pairs = []
        for mine, joint in zip(self.param_groups, self._joint.param_groups, strict=True):
            name, theirs, ours = mine["name"], mine["params"][0], joint["params"][0]
            if self._splats[name] is not theirs:
                raise ValueError(
                    f"splats[{name!r}] is another Parameter than the optimizer was made with (densification strategies "
                    "replace them); assign to its .data, or change the number of splats with resize()."
                )
            if rows - {len(theirs)}:
                raise ValueError(
                    f"splats[{name!r}] has {len(theirs)} rows and the optimizer's state {max(rows)}; change the number "
                    "of splats with resize(), or load splats and state of the same run."
                )
            ours.data = _ours(name, theirs.data)
            pairs.append((name, theirs, ours))
        return pairs


def _check(splats: Mapping[str, Parameter]) -> None:
    gaussians = as_gaussians(splats)
    unknown = [name for name in splats if name not in SPLATS]
    if unknown:
        raise ValueError(
            f"The splats hold {unknown} too, which learned weights do not move; give the six of {list(SPLATS)} and an "
            "optimizer of its own to the rest."
        )
    for name, (_, value) in zip(SPLATS, gaussians.items(), strict=True):
        if value.dtype != torch.float32 or value.device != gaussians.device:
            raise ValueError(
                f"splats[{name!r}] is {value.dtype} on {value.device}; float32 on {gaussians.device}, where the means "
                "are, is needed."
            )
