"""Weights that come with the package, trained by its own commands; each has its training record in its JSON."""

from pathlib import Path

SHIPPED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}
"""Name and file."""
