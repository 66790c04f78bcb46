import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.processes import ROOT, kill

HOLD = """
import os, sys, time
from mpo.jobs import gpus
with gpus.slot(int(sys.argv[1])) as device:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == device
    print(device, flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold(tmp_path):
    """Starts processes that hold a GPU slot for some seconds and print its device."""
    started = []

    def start(runs_per_gpu, seconds, devices="0,1"):
        # The lock files are in the temporary folder.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": devices, "TMPDIR": str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(runs_per_gpu), str(seconds)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def device(process):
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("runs_per_gpu", "expected"), [(1, {"0": 1, "1": 1}), (2, {"3": 2, "7": 2})]
)
def test_jobs_side_by_side_have_a_device_each(hold, runs_per_gpu, expected):
    names = ",".join(expected)
    held = [hold(runs_per_gpu, 30, names) for _ in range(2 * runs_per_gpu)]
    assert Counter(device(process) for process in held) == expected
    late = hold(runs_per_gpu, 0, names)
    time.sleep(1.5)
    assert late.poll() is None  # it waits
    kill(held[0])
    assert device(late) in expected and late.wait() == 0


def test_every_device_is_taken_before_one_is_shared(hold):
    first, second = (device(hold(2, 30)) for _ in range(2))
    assert {first, second} == {"0", "1"}


def test_without_a_gpu_there_is_nothing_to_wait_for(tmp_path):
    code = "from mpo.jobs import gpus\nwith gpus.slot(1) as device:\n    print(device)"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "None\n" and not list(tmp_path.iterdir())
