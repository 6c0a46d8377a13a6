"""What gsplat's densification strategies do to splats, told from how they move row numbers.

A strategy (``gsplat.strategy``) knows a dict of Parameters and an optimizer for each, and treats all of them alike:
what it does to the rows of a Parameter it does to every Parameter, and to every tensor in the state of its optimizer.
So the strategy gets one Parameter more, and optimizers that hold nothing but row numbers. Afterwards they say where the
values of each row have come from, and whose state it keeps; a row was kept if both agree.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter

ROWS = "rows"
"""Name of the Parameter that holds row numbers; it is not rendered."""


class RowOptimizer:
    """One tensor's optimizer as a strategy sees it: a param group, and a state with a row for each row of the tensor.

    It takes no steps; the rows of its state are their own numbers, counted from 1, since strategies write 0 where they
    reset a state.
    """

    def __init__(self, parameter: Parameter) -> None:
        self.renew(parameter)

    def renew(self, parameter: Parameter) -> None:
        """Begin anew with a tensor all of whose rows are in their places."""
        self.param_groups = [{"params": [parameter]}]
        self.state = {parameter: {ROWS: _numbers(parameter)}}

    @property
    def rows(self) -> Float[Tensor, " n"]:
        """Old number of the row whose state each row keeps, from 1; 0 where the state was reset."""
        return self.state[self.param_groups[0]["params"][0]][ROWS]


class _Splats(dict[str, Parameter]):
    """Splats and row numbers; what a strategy puts here reaches the splats as well, frozen if they were frozen."""

    def __init__(self, splats: MutableMapping[str, Parameter], names: tuple[str, ...]) -> None:
        super().__init__({name: splats[name] for name in names})
        self._splats = splats

    def __setitem__(self, name: str, parameter: Parameter) -> None:
        if name in self:
            parameter.requires_grad_(self[name].requires_grad)
        super().__setitem__(name, parameter)
        if name in self._splats:
            self._splats[name] = parameter


@dataclass(frozen=True)
class RowChange:
    """What strategies have done since the last step, to n rows of which they made m."""

    source: Int[Tensor, " m"]
    """Old row that the values of each row have come from."""
    fresh: Bool[Tensor, " m"]
    """True for rows that keep nobody's state: duplicates, halves, relocated and added ones."""
    reset: tuple[str, ...]
    """Tensors whose whole state was reset, the opacities after a reset of opacities."""


class StrategyEdits:
    """The two dicts that a strategy is given, and what has been done to them.

    Args:
        splats: The mapping that is rendered; new Parameters appear in it at once.
        names: Of its tensors.
    """

    def __init__(self, splats: MutableMapping[str, Parameter], names: tuple[str, ...]) -> None:
        self._splats, self._names = splats, names
        self.params: dict[str, Parameter] = _Splats(splats, names)
        self._number()
        self.optimizers = {name: RowOptimizer(parameter) for name, parameter in self.params.items()}

    def _number(self) -> None:
        self._numbered = Parameter(_numbers(self.params["means"]))
        dict.__setitem__(self.params, ROWS, self._numbered)

    def renew(self) -> None:
        """Begin anew with the splats as they are."""
        for name in self._names:
            dict.__setitem__(self.params, name, self._splats[name])
        self._number()
        for name, optimizer in self.optimizers.items():
            optimizer.renew(self.params[name])

    def change(self) -> RowChange | None:
        """What has been done since the last call of :meth:`renew`; None if nothing was."""
        reset = tuple(name for name in self._names if len(self.params[name]) and not self.optimizers[name].rows.any())
        rows = self.params[ROWS].detach()
        if self.params[ROWS] is self._numbered and not reset:
            return None
        return RowChange(rows.long() - 1, rows != self.optimizers[ROWS].rows, reset)


def _numbers(rows: Tensor) -> Float[Tensor, " n"]:
    """1 to n; float64, because only such Parameters have gradients and larger numbers stay exact."""
    return torch.arange(1, len(rows) + 1, dtype=torch.float64, device=rows.device)
