"""The file ``config.yml`` of a run, read before anything is imported that takes seconds."""

from __future__ import annotations

from pathlib import Path

from l2o_splat.plugin.errors import PluginError


class BrokenConfigError(PluginError):
    """A ``config.yml`` is missing, broken, or would run code of others."""


def config_text(path: Path) -> str:
    """The text of a ``config.yml``.

    Raises:
        BrokenConfigError: If there is none, or it cannot be read.
    """
    if path.is_dir():
        raise BrokenConfigError(f"{path} is a folder; name the config.yml in it.")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BrokenConfigError(
            f"{path} does not exist; name the config.yml whose path the run printed, "
            "outputs/EXPERIMENT/METHOD/TIME/config.yml."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise broken_config(path, f"it cannot be read ({error})") from error


def broken_config(path: Path, why: str) -> BrokenConfigError:
    """The error of a file that is there but of no use."""
    return BrokenConfigError(f"{path} cannot be used: {why}; use the file that ns-train wrote, or train again.")
