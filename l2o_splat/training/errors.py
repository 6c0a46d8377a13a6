"""The error that keeps a training from starting."""


class TrainingError(RuntimeError):
    """A training cannot start; the message says why and what to do."""
