"""Ctrl-C and SIGTERM as a wish to stop, which a training loop fulfils after a whole step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType

Handler = Callable[[int, FrameType | None], None] | signal.Handlers

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether a signal has asked to stop."""

    number: signal.Signals | None = None
    """The signal; None if there was none."""

    @property
    def exit_code(self) -> int:
        """What a process that was ended by the signal returns to the shell: 130 for SIGINT, 143 for SIGTERM.

        Raises:
            ValueError: If there was no signal.
        """
        if self.number is None:
            raise ValueError("No signal has asked to stop, so there is no exit code for it.")
        return 128 + self.number


@contextmanager
def stop_signals(on_first: Callable[[], None]) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request, and let the second end the process at once.

    Python handles signals in the main thread alone; in another one nothing changes. The handlers that were there before
    are put back at the end.

    Args:
        on_first: Called in the handler, at any line of the main thread; should set a flag.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def stop(number: int, frame: FrameType | None) -> None:
        request.number = signal.Signals(number)
        on_first()
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # Ends the process, also inside compiled code.
        # Neither print nor rich: the signal may have come in the middle of their own writing.
        os.write(2, b"\nStopping after this step; Ctrl-C again ends at once, without saving.\n")

    with _handlers(dict.fromkeys(SIGNALS, stop)):
        yield request


def default_signals() -> AbstractContextManager[None]:
    """Let SIGINT raise ``KeyboardInterrupt`` and SIGTERM end the process, as without :func:`stop_signals`."""
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return _handlers({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL})


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            # A handler that was not installed by Python cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
