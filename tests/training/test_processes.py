"""Fabric for both commands."""

import sys

import pytest

from l2o_splat.training.errors import TrainingError
from l2o_splat.training.processes import start_fabric


def test_a_missing_fabric_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(TrainingError, match=r"Lightning Fabric is not installed .*pip install 'l2o_splat\[train\]'"):
        start_fabric("cpu")


def test_one_process_on_the_cpu():
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    fabric = start_fabric("cpu")
    assert (fabric.world_size, fabric.global_rank, fabric.device.type) == (1, 0, "cpu")
