"""Python warnings of other packages that neither we nor a user can act on, by message and module.

Nothing here imports nerfstudio, so that a command of ours can silence what nerfstudio's own import says. ``ns-train``
imports nerfstudio before it imports us: what it says until then stays, unless the shell sets
``PYTHONWARNINGS=ignore::FutureWarning``.
"""

from __future__ import annotations

import warnings

SILENCED: tuple[tuple[type[Warning], str, str], ...] = (
    # nerfstudio 1.1.5 calls names of torch that have moved; both spellings work.
    (FutureWarning, r"`torch\.cuda\.amp\.\w+(\(args\.\.\.\))?` is deprecated", r"nerfstudio\."),
    (UserWarning, r"To copy construct from a tensor", r"nerfstudio\."),
    (FutureWarning, r"`torch\.jit\.script` is deprecated", r"torch\.jit\."),
)
"""Category, and how message and name of the module begin, as regular expressions."""


def silence_third_parties() -> None:
    """Leave out the warnings of :data:`SILENCED`, and no other."""
    for category, message, module in SILENCED:
        warnings.filterwarnings("ignore", message, category, module)
