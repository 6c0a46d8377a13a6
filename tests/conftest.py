import os

import torch


def pytest_configure():
    """With several workers (pytest-xdist) each has one core, and so has every process that its tests start."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
