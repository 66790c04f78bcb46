import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """As in training; with more, a matrix product may be split by the size of the stack.

    Beside other processes, too, a small operation waits milliseconds for a second thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
