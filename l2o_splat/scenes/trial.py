"""One tiny capture, so that the kernels of the ray caster are compiled before anything needs them."""

from __future__ import annotations

from l2o_splat.scenes.procedural import ProceduralOptions, generate


def compile_raycaster() -> None:
    """Compile the kernels of procedural captures, or read their machine code from disk."""
    generate(0, ProceduralOptions(num_views=2, width=32, height=24, num_points=50))
