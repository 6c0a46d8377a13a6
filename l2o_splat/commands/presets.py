"""``--preset NAME`` of a training command: the default of every other option, so that `--help` shows its values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Protocol

import tyro

FLAG = "--preset"


class HasPresets(Protocol):
    """A command with a field ``preset``.

    Where the values of a preset depend on other options, the class names these in ``CHOSEN_WITH``.
    """

    @classmethod
    def of_preset(cls, name: str, **chosen: str) -> Any:
        """The command with the defaults of a preset; an option without a default is ``tyro.MISSING``.

        Args:
            name: Of the preset.
            chosen: Those of the options in ``CHOSEN_WITH`` that the user gave.

        Raises:
            KeyError: If no preset has this name, or an option another value than those it may have.
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
    name = _named(words, FLAG)
    options = {option: _named(words, f"--{option}") for option in getattr(command, "CHOSEN_WITH", ())}
    chosen = {option: value for option, value in options.items() if value is not None}
    try:
        default = None if name is None else command.of_preset(name, **chosen)
    except KeyError:
        default = None  # The parser lists the presets that there are.
    return tyro.cli(command, prog=prog, args=list(words), **({} if default is None else {"default": default}))


def _named(words: Sequence[str], flag: str) -> str | None:
    """What follows a flag, the last time that it is given."""
    found = None
    for word, following in zip_longest(words, words[1:]):
        if word == flag:
            found = following
        elif word.startswith(flag + "="):
            found = word.removeprefix(flag + "=")
    return found
