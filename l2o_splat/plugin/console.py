"""What nerfstudio's trainer prints, without the lines that say nothing, or say what another line says.

nerfstudio prints through one console and offers no switch, so its ``print`` and ``log`` are wrapped while our trainer
is at work. Errors, warnings and everything that is not listed here are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nerfstudio.utils.rich_utils import CONSOLE

LEFT_OUT: tuple[tuple[str, str], ...] = (
    ("nerfstudio.engine.trainer", "Mixed precision is disabled for CPU training."),
    ("nerfstudio.engine.trainer", "No Nerfstudio checkpoint to load, so training from scratch."),
    # The folder of config.yml, which is printed.
    ("nerfstudio.engine.trainer", "Saving checkpoints to: "),
    ("nerfstudio.utils.writer", "logging events to: "),
    ("nerfstudio.utils.writer", "Disabled comet/tensorboard/wandb event writers"),
    ("nerfstudio.utils.writer", "disabled local writer"),
)
"""Module of nerfstudio, and how the line begins there."""
NO_DOWNSCALING = "Auto image downscale factor of 1"
"""Left out as well: what nerfstudio's dataparsers say when they do nothing."""


@contextmanager
def quiet_console() -> Iterator[None]:
    """Leave the lines of :data:`LEFT_OUT` out of what is printed inside."""
    before = CONSOLE.print, CONSOLE.log
    CONSOLE.print, CONSOLE.log = _without_lines(CONSOLE.print), _without_lines(CONSOLE.log, names_its_caller=True)
    try:
        yield
    finally:
        CONSOLE.print, CONSOLE.log = before


def _without_lines(show: Callable[..., None], names_its_caller: bool = False) -> Callable[..., None]:
    beginnings = tuple(line for _, line in LEFT_OUT)

    def write(*objects: object, **options: object) -> None:
        text = str(objects[0]).removeprefix("[bold yellow]") if objects else ""
        if text.startswith(beginnings) or text == NO_DOWNSCALING:
            return
        if names_its_caller:
            options["_stack_offset"] = options.get("_stack_offset", 1) + 1
        show(*objects, **options)

    return write
