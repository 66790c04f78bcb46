"""Acting and learning compiled for the CPU by torch."""

import json
import logging

import numpy as np
import pytest
import torch
from torch._inductor import config as inductor
from torch._inductor import cpp_builder

from mpo.algorithm.agent import MPOAgent
from mpo.compute import compile, matmul
from tests import processes
from tests.algorithm.test_agent import OBS, D, make_agent, make_windows
from tests.cases import first_of

CPU = torch.device("cpu")
MODES = {
    "td": {"n_step": 3, "normalize_observations": True, "critic": "categorical"},
    "retrace": {"retrace": True, "retrace_steps": 4, "per_dimension_kl": False},
    "levers": {
        "retrace": True,
        "retrace_steps": 4,
        "corrections": "uncorrected",
        "regressed": "all",
        "layer_norm": "all",
        "critics": "mean",
        "normalize_observations": True,
        "observation_bound": "squash",
        "policy_update_period": 2,
    },
}


@pytest.mark.needs("compiler")
@pytest.mark.parametrize("mode", first_of(MODES))
def test_it_computes_what_the_uncompiled_form_does(mode):
    """The uncompiled code is tested against the papers' formulas in test_agent.py."""
    plain = make_agent((3,), optimizer="sgd", **MODES[mode])
    made = MPOAgent(OBS, D, plain.config, (3,), CPU, compile_on_cpu=True)
    made.load_state_dict([plain.state_dict(0)])
    assert made.compiled and not plain.compiled
    windows = dict(make_windows(plain.config.window, (3,)))
    obs = np.linspace(-1, 1, OBS, dtype=np.float32)[None]
    for _ in range(3):
        for ours, theirs in zip(made.act(obs), plain.act(obs), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        found, expected = made.update(windows), plain.update(windows)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
        for ours, theirs in zip(made.learners.optimizers, plain.learners.optimizers, strict=True):
            scale = theirs._gradient.abs().max().item()
            assert scale > 0
            torch.testing.assert_close(ours._gradient, theirs._gradient, rtol=0, atol=1e-4 * scale)


@pytest.mark.slow
@pytest.mark.needs("compiler")
def test_killed_and_resumed_it_has_the_bits_of_the_undisturbed_training(tmp_path):
    spec, steps = (
        processes.run_spec("InvertedDoublePendulum-v5", retrace=True, retrace_steps=3),
        600,
    )
    processes.finish(processes.train(tmp_path / "calm", spec, steps, "--compile-on-cpu", "true"))
    killed = tmp_path / "killed"
    process = processes.train(killed, spec, steps, "--compile-on-cpu", "true", interval=0.05)
    processes.wait_for_step(process, processes.resume(killed, spec), 150)
    processes.kill(process)
    processes.finish(processes.train(killed, spec, steps, "--compile-on-cpu", "true"))
    calm, again = (processes.results(tmp_path / name, spec, steps) for name in ("calm", "killed"))
    assert processes.bits(again) == processes.bits(calm)
    provenance = json.loads((again / "run.json").read_text())["provenance"]
    assert provenance["compiled"] and provenance["resumed"]


class Scaled:
    def __init__(self):
        self.factor = torch.tensor(2.0)

    def of(self, inputs, others):
        return {name: x * self.factor + sum(others) for name, x in inputs.items()}


@pytest.mark.needs("compiler")
def test_arguments_of_another_layout_and_tensors_that_are_replaced_are_minded():
    scaled = Scaled()
    made = compile.compiled(scaled.of, CPU, on_cpu=True)
    square = torch.arange(4.0).view(2, 2)
    for x in (torch.ones(2), torch.ones(3), square, square.T):
        for factor in (2.0, 3.0):
            scaled.factor = torch.tensor(factor)
            found = made({"x": x}, [x, torch.zeros(())])
            torch.testing.assert_close(found, {"x": x * factor + x})
    assert len(made._made) == 4


class Large:
    def of(self, x, weight, bias):
        return matmul.affine_elu(x, weight, bias), matmul.product(x.mT, x)


@pytest.mark.needs("compiler")
@pytest.mark.parametrize("at_home", [True, False])
def test_large_products_are_exact_whichever_library_makes_them(at_home, monkeypatch):
    monkeypatch.setattr(matmul, "_SUITS_MKL", at_home)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 300, 64), torch.randn(1, 64, 64), torch.randn(1, 1, 64)
    assert matmul._suits_onednn(x, weight)
    made = compile.compiled(Large().of, CPU, on_cpu=True)
    found = made(x, weight, bias)
    with torch.profiler.profile() as profile:
        made(x, weight, bias)
    taken = {event.key for event in profile.key_averages()}
    assert ("mkldnn::_linear_pointwise" in taken) == (not at_home)
    x, weight, bias = x.double(), weight.double(), bias.double()
    expected = torch.nn.functional.elu(x @ weight + bias), x.mT @ x
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)


def test_without_a_compiler_this_is_said_and_done_without(caplog):
    caches = (compile.available_on_cpu, cpp_builder.cpp_compiler_search)
    try:
        for cache in caches:
            cache.cache_clear()
        # torch's own way to change a setting: pytest's would leave it hidden for later tests.
        with (
            inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
            caplog.at_level(logging.WARNING),
        ):
            agents = [
                MPOAgent(OBS, D, make_agent().config, (seed,), CPU, compile_on_cpu=True)
                for seed in (3, 4)
            ]
        assert not any(agent.compiled for agent in agents)
        assert len(caplog.records) == 1 and "no-such-compiler" in caplog.text
    finally:
        for cache in caches:
            cache.cache_clear()


class Reduced:
    def of(self, x, weight, bias):
        return matmul.affine_elu(x, weight, bias, "bfloat16")


@pytest.mark.needs("compiler")
@pytest.mark.parametrize("native", [True, False])
def test_compiled_code_rounds_to_bfloat16(native, monkeypatch):
    """Compilers take out conversions that cancel each other; 257 would then stay what it is."""
    monkeypatch.setattr(matmul, "_HAS_BFLOAT16", native)
    x, weight = torch.tensor([[[257.0]], [[-257.0]]]), torch.tensor([[[1.0]], [[261.0]]])
    found = compile.compiled(Reduced().of, CPU, on_cpu=True)(x, weight, torch.full((2, 1, 1), 0.25))
    assert found.flatten().tolist() == [256.25, -1]
    found = compile.compiled(Reduced().of, CPU, on_cpu=True)(-x, weight, torch.zeros(2, 1, 1))
    assert found.flatten().tolist() == [-1, 256 * 260]


@pytest.mark.slow
@pytest.mark.needs("compiler")
def test_in_bfloat16_it_computes_what_the_uncompiled_form_does():
    """Where a last bit differs, one may round up and the other down."""
    plain = make_agent((3,), target_precision="bfloat16", retrace=True, retrace_steps=3)
    made = MPOAgent(OBS, D, plain.config, (3,), CPU, compile_on_cpu=True)
    made.load_state_dict([plain.state_dict(0)])
    windows = dict(make_windows(3, (3,)))
    found, expected = made.update(windows), plain.update(windows)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3, msg=name)
    exact = make_agent((3,), retrace=True, retrace_steps=3).update(windows)
    apart = (found["target_mean"] - exact["target_mean"]).abs()
    assert apart > 3 * (found["target_mean"] - expected["target_mean"]).abs()
