"""The code that is compiled for a GPU, as far as it can be tested on a CPU."""

import logging
import os
import subprocess
import sys

import pytest
import torch

from mpo.algorithm.agent import MPOAgent
from mpo.algorithm.optimizers import OPTIMIZERS, Settings, StackedOptimizer
from mpo.compute import compile
from mpo.study.hyperparameters import Hyperparameters
from tests.algorithm.test_agent import OBS, D, make_windows
from tests.cases import first_of
from tests.compute.test_cuda_graphs import elsewhere  # noqa: F401 (a fixture)

MODES = [
    {},
    {"n_step": 3, "normalize_observations": True, "action_penalty": False},
    {"retrace": True, "retrace_steps": 4, "per_dimension_kl": False},
    {"critic": "categorical"},
    {"critic": "categorical", "critics": "minimum", "layer_norm": "all"},
    {"target_precision": "bfloat16", "critics": "mean", "behaviour_policy": "target"},
    {"target_precision": "tf32", "layer_norm": "all"},
    {
        "retrace": True,
        "retrace_steps": 4,
        "corrections": "peng",
        "regressed": "all",
        "critic_batch_size": 4,
        "policy_update_period": 2,
    },
]


def tracing(traced: list[str]):
    """Returns a replacement of `compile.compiled` that traces functions but compiles no kernels.

    The names of the traced functions are appended to `traced`.
    """

    def compiled(function, device, on_cpu=False, reads=None):
        def backend(graph, inputs):
            traced.append(getattr(function, "func", function).__name__)
            return graph.forward

        return torch.compile(function, backend=backend, fullgraph=True, dynamic=False)

    return compiled


@pytest.mark.parametrize("mode", first_of(MODES))
def test_acting_and_learning_are_traced_whole(mode, elsewhere, monkeypatch):  # noqa: F811
    """A graph break would be an error (`fullgraph`)."""
    traced = []
    torch.compiler.reset()
    for module in ("agent", "update"):
        monkeypatch.setattr(f"mpo.algorithm.{module}.compiled", tracing(traced))
    sizes = {"policy_layer_sizes": (32, 32), "critic_layer_sizes": (32, 32), "replay_size": 10}
    agent = MPOAgent(OBS, D, Hyperparameters(**sizes, **mode), range(3), elsewhere)
    windows = {name: x.to(elsewhere) for name, x in make_windows(agent.config.window).items()}
    for _ in range(3):
        metrics = agent.update(windows, m_steps=2)
        agent._heads({"obs": torch.zeros(3, OBS, device=elsewhere)})
    assert len(metrics) > 10 and all(x.is_meta for x in metrics.values())
    # Traced once each: nothing that changes between updates is a constant in the trace.
    alone = ["_evaluate_critic"] * (agent.config.policy_update_period > 1)
    assert sorted(traced) == ["_evaluate", *alone, "_fit_policy", "_policy_heads"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_s_step_is_traced_whole_and_stays_what_it_is(name, monkeypatch):
    traced = []

    def trained():
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 64).view(2, 32), False)
        optimizer = StackedOptimizer(name, [parameter], 0.1, Settings(momentum=0.9))
        with torch.inference_mode():
            for step in range(6):
                parameter.grad.copy_(torch.linspace(-2, 3, 64).view(2, 32) - step)
                optimizer.step()
                if step == 3:
                    optimizer.load_state_dict([optimizer.state_dict(i) for i in range(2)])
        return optimizer.flat

    plain = trained()
    torch.compiler.reset()
    monkeypatch.setattr("mpo.algorithm.optimizers.steppers.compiled", tracing(traced))
    monkeypatch.setattr("mpo.algorithm.optimizers.built_in.compiles", lambda device: True)
    # In float32, 1 - 0.999 is only exact to four digits.
    torch.testing.assert_close(trained(), plain, rtol=0, atol=1e-5)
    # Traced again where the first step creates the state, and after loading a state.
    assert 1 <= len(traced) <= 3


def test_on_a_cpu_nothing_is_compiled():
    assert compile.compiled(torch.relu, torch.device("cpu")) is torch.relu


def test_what_a_gpu_lacks_is_said_and_done_without(monkeypatch, caplog):
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    compile.available.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            gpu = torch.device("cuda")
            assert compile.compiled(torch.relu, gpu) is torch.relu
            assert compile.compiled(torch.tanh, gpu) is torch.tanh
        assert len(caplog.records) == 1
        assert "Triton" in caplog.text and "a C compiler (CC, gcc or clang)" in caplog.text
    finally:
        compile.available.cache_clear()


def test_torch_knows_what_its_compiler_is_asked_for(monkeypatch):
    """torch.compile refuses unknown options before it compiles anything."""
    monkeypatch.setattr(compile, "available", lambda: True)
    limits = ("recompile_limit", "accumulated_recompile_limit")
    before = {name: getattr(torch._dynamo.config, name) for name in limits}
    try:
        assert compile.compiled(torch.relu, torch.device("cuda")) is not torch.relu
        assert all(getattr(torch._dynamo.config, name) > before[name] for name in limits)
    finally:
        for name, limit in before.items():
            setattr(torch._dynamo.config, name, limit)


KERNEL = """
import torch
from mpo.compute import triton_kernels

torch.manual_seed(0)
for seeds, rows, inner, columns in ((2, 70, 48, 40), (1, 64, 64, 64), (3, 130, 17, 100)):
    flat = torch.randn(seeds, inner * columns + columns + 32)
    weight = flat[:, : inner * columns].view(seeds, inner, columns)
    bias = flat[:, inner * columns :][:, :columns].unsqueeze(1)
    x = torch.randn(seeds, rows, inner)
    found = triton_kernels.affine_elu(x, weight, bias)
    sums = torch.baddbmm(bias.double(), x.double(), weight.double())
    torch.testing.assert_close(found.double(), torch.nn.functional.elu(sums), rtol=2e-6, atol=4e-6)
"""


@pytest.mark.needs("triton")
def test_the_kernel_is_an_affine_map_and_its_elu():
    """Runs in Triton's interpreter, on the CPU; torch for CUDA includes the package."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
