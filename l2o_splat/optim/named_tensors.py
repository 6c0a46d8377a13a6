"""Checks of the tensors that an optimizer is given; messages hold names and shapes, never numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import ParameterDict


def check_named_tensors(given: Any, names: Sequence[str]) -> None:
    """Refuse what does not hold a tensor for each name.

    Args:
        given: Should be a mapping from names to tensors; more names than these are allowed.
        names: Names that are needed.

    Raises:
        TypeError: If it is no mapping, or holds something else than a tensor under one of the names.
        KeyError: If a name is missing.
    """
    if not isinstance(given, Mapping | ParameterDict):
        raise TypeError(
            f"The tensors of the scene were given as a {type(given).__name__}; a dict or ParameterDict with the names "
            f"{list(names)} is needed, and lr is set afterwards in optimizer.param_groups."
        )
    missing = [name for name in names if name not in given]
    if missing:
        raise KeyError(f"The splats lack {missing} and have {list(given.keys())}; all of {list(names)} are needed.")
    for name in names:
        if not isinstance(given[name], Tensor):
            raise TypeError(f"{name!r} is a {type(given[name]).__name__}; a torch tensor is needed.")


def check_no_others(given: Mapping[str, Tensor] | ParameterDict, names: Sequence[str]) -> None:
    """Refuse names that nothing would move.

    Raises:
        ValueError: If there are any.
    """
    unknown = [name for name in given.keys() if name not in names]  # noqa: SIM118 - a ParameterDict is no Mapping
    if unknown:
        raise ValueError(
            f"The splats hold {unknown} too, which an update rule does not move; give the six of {list(names)} and an "
            "optimizer of its own to the rest."
        )


def check_new_group(groups: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Refuse a param group that is added to those of the six tensors.

    Raises:
        ValueError: If all six are there.
    """
    if len(groups) == len(names):
        raise ValueError(
            f"A param group was added to those of {list(names)}, which an update rule does not move; give its "
            "parameters an optimizer of their own."
        )
