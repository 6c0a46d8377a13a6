"""Weights that come with the package, trained by its own commands. The JSON of each holds its training record."""

from pathlib import Path

SHIPPED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}
"""Files by name."""
ALIASES = {"learn2splat-mini": "gain-mini", "controller-mini-frozen": "constants-mini"}
"""Former names, which are still accepted."""
