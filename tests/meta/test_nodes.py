"""Meta-training on several machines, each of which is a process of this one, as torchrun and SLURM start them."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.meta.test_trainer import TRAINING, ignore, make_trainer, weights_of

pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")

NODE = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from l2o_splat.training.processes import start_fabric
from tests.meta.test_trainer import TRAINING, ignore, make_trainer, weights_of
if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    fabric = start_fabric("cpu", devices=1, nodes=2)
    assert (fabric.world_size, fabric.device.type) == (2, "cpu")
    trainer = make_trainer(folder, replace(TRAINING, iterations=3), fabric)
    trainer.run(ignore)
    if fabric.global_rank == 0:
        torch.save(weights_of(trainer), folder / "weights.pt")
"""


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def environment(node: int, port: int) -> dict[str, str]:
    """What torchrun sets in the one process of a machine."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(node),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": str(node),
        "GROUP_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONWARNINGS": "ignore",
    }


def test_two_machines_do_what_one_process_does_with_two_scenes(tmp_path):
    script, folder, port = tmp_path / "node.py", tmp_path / "nodes", free_port()
    script.write_text(NODE)
    nodes = [
        subprocess.Popen([sys.executable, script, folder], env=os.environ | environment(node, port)) for node in (0, 1)
    ]
    try:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        alone = make_trainer(tmp_path / "alone", replace(TRAINING, iterations=3, scenes_per_iteration=2))
        start = weights_of(alone).clone()
        alone.run(ignore)
        torch.set_num_threads(threads)
        assert [node.wait(timeout=600) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    together, moved = torch.load(folder / "weights.pt", weights_only=True), (weights_of(alone) - start).norm()
    assert len(list((folder / "states/iteration-00000003").glob("process-*.pt"))) == 2
    assert moved > 0 and (together - weights_of(alone)).norm() < 1e-3 * moved
