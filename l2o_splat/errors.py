"""The base class of all errors that a user can mend."""


class L2OError(Exception):
    """An expected failure. Its message says what was found, what is needed and what to do.

    A command prints the message without a stack trace. Subclasses also derive from the built-in error that fits
    (ValueError, RuntimeError, OSError), so that callers of the library need not know this class.
    """
