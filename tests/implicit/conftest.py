import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    """Small tensors: with more threads PyTorch spends its time waiting. Random directions are the same each time."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
