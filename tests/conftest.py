import pytest
import torch

from tests.pipeline import project, snakemake


@pytest.fixture(autouse=True)
def one_thread():
    """As in training; with more, a matrix product may be split by the size of the stack.

    Beside other processes, too, a small operation waits milliseconds for a second thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The tiny study, run to its end."""
    folder = project(tmp_path_factory.mktemp("project"))
    done = snakemake(folder, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    return folder
