"""Numbers of each Gaussian that a viewer can show, found and drawn only while somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, " n"]


class ShownValues:
    """What a viewer offers to show of each Gaussian, and what is selected there.

    Args:
        insight: What the rule knows of each Gaussian, 0 to 1, by name; called for every image.
        selected: Names of the outputs that are looked at.
    """

    def __init__(self, insight: Callable[[], Mapping[str, Values]], selected: Callable[[], set[str]]) -> None:
        self._insight, self._selected = insight, selected
        self._offered: dict[str, None] = {}

    def of(self, known: Mapping[str, Callable[[], Values]]) -> dict[str, Values | None]:
        """Values by name, those of the rule and others; None for those that nobody looks at, or that are unknown now.

        A name that was offered once stays: nerfstudio's viewer stops if what it shows is no longer there.

        Args:
            known: How to find the others.
        """
        insight, selected = self._insight(), self._selected()
        self._offered |= dict.fromkeys((*known, *insight))
        shown: dict[str, Values | None] = dict.fromkeys(self._offered)
        for name in selected & shown.keys():
            shown[name] = known[name]() if name in known else insight.get(name)
        return shown
