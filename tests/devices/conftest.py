import pytest
import torch

from l2o_splat import threads


@pytest.fixture(autouse=True)
def one_thread():
    """The scenes are tiny, and thousands of small operations are taken that threads would only wait for."""
    before = torch.get_num_threads(), threads.get_num_threads()
    torch.set_num_threads(1)
    threads.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    threads.set_num_threads(before[1])
