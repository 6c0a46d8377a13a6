"""Processes and devices of a training, through Lightning Fabric."""

from __future__ import annotations

from typing import Any

from l2o_splat.training.errors import TrainingError


def start_fabric(accelerator: str, devices: int = 1, nodes: int = 1) -> Any:
    """Launch Lightning Fabric, which starts the other processes.

    Args:
        accelerator: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        devices: Processes on this machine.
        nodes: Machines.

    Raises:
        TrainingError: If Lightning Fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise TrainingError(
            f"Lightning Fabric is not installed ({error}); run: pip install 'l2o_splat[train]'."
        ) from error
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric
