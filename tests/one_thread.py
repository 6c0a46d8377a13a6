"""A fixture for folders of tests that work on small tensors; their conftest.py imports it."""

import pytest
import torch

from l2o_splat.rendering import set_num_threads


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: with more threads PyTorch spends its time waiting. The kernels still run in two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    set_num_threads(2)
    yield
    set_num_threads(None)
    torch.set_num_threads(before)
