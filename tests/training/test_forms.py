"""A state is only loaded on the kind of device that it was saved on."""

import re

import pytest
import torch

from mpo.study.config import ConfigError
from mpo.training import checkpoint, loop
from mpo.training.stack import Stack
from tests import processes

SPEC = processes.run_spec("Pendulum-v1")
GPU_STREAM = torch.zeros(16, dtype=torch.uint8)


def altered(resume, alter):
    """Alters the newest state in a directory; returns its file."""
    path = max(resume.glob("checkpoint-*.pt"))
    content = checkpoint._read(path)
    alter(content["state"])
    checkpoint._write(path, content)
    return path


def older(state):
    """What an older version saved, which did not name the device."""
    del state["device"]


def older_on_a_gpu(state):
    older(state)
    state["trainer"]["agent"]["noise"] = [GPU_STREAM]


@pytest.mark.parametrize(
    "alter", [lambda state: state.update(device="cuda"), older_on_a_gpu], ids=["named", "older"]
)
def test_a_state_of_another_device_is_refused_before_anything_is_loaded(tmp_path, alter):
    folders = [tmp_path / "state" / name for name in "ab"]
    for seed, steps, folder in zip((0, 1), (150, 200), folders, strict=True):
        processes.train_here(tmp_path / "a", SPEC, steps, seed=seed, resume=folder)
    altered(folders[1], alter)
    before = {path: path.read_bytes() for path in tmp_path.glob("state/*/*.pt")}
    stack = Stack(SPEC.env_id, SPEC.training, (0, 1), torch.device("cpu"))
    message = (
        f"execution.device: the state in {folders[1]} was saved on 'cuda' and cannot be continued "
        "on 'cpu'. Run on the same kind of device, with execution.device: cuda, or delete "
        f"{folders[1]} to start from step 0"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        loop.train(stack, SPEC.cell, 300, [tmp_path / "b", tmp_path / "c"], folders)
    assert stack.env_steps == 0
    assert before == {path: path.read_bytes() for path in tmp_path.glob("state/*/*.pt")}


def test_a_state_that_does_not_name_its_device_goes_on_where_it_was_saved(tmp_path):
    resume = tmp_path / "resume"
    processes.train_here(tmp_path / "short", SPEC, 150, resume=resume)
    altered(resume, older)
    processes.train_here(tmp_path / "long", SPEC, 250, resume=resume)
    processes.train_here(tmp_path / "calm", SPEC, 250)
    assert processes.bits(tmp_path / "long") == processes.bits(tmp_path / "calm")
    assert checkpoint.peek(resume)["device"] == "cpu"


def test_a_stream_of_another_size_is_damage(tmp_path, caplog):
    resume = tmp_path / "resume"
    processes.train_here(tmp_path / "a", SPEC, 150, resume=resume)
    path = altered(resume, lambda state: state["trainer"]["agent"].update(noise=[GPU_STREAM]))
    processes.train_here(tmp_path / "b", SPEC, 150, resume=resume)
    assert f"skipping {path.name}" in caplog.text
    assert processes.bits(tmp_path / "a") == processes.bits(tmp_path / "b")
