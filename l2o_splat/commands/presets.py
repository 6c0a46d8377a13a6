"""``--preset NAME`` of a training command: the default of every other option, so that `--help` shows its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import tyro

FLAG = "--preset"


class HasPresets(Protocol):
    """A command with a field ``preset``."""

    @classmethod
    def of_preset(cls, name: str) -> Any:
        """The command with the defaults of a preset; an option without a default is ``tyro.MISSING``.

        Raises:
            KeyError: If no preset has this name.
        """
        ...

    def run(self) -> int | None:
        """Run the command."""
        ...


def parse_with_preset(command: type[HasPresets], prog: str, words: Sequence[str]) -> HasPresets:
    """Parse a command's arguments on top of the preset that they name.

    Args:
        command: The command.
        prog: How the user calls it, for messages.
        words: Arguments without the command's name.
    """
    name = _named(words)
    try:
        default = None if name is None else command.of_preset(name)
    except KeyError:
        default = None  # The parser lists the presets that there are.
    return tyro.cli(command, prog=prog, args=list(words), **({} if default is None else {"default": default}))


def _named(words: Sequence[str]) -> str | None:
    """What follows ``--preset``, the last time that it is given."""
    found = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == FLAG:
            found = following
        elif word.startswith(FLAG + "="):
            found = word.removeprefix(FLAG + "=")
    return found
