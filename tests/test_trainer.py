import ast
import inspect
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mpo import trainer as module
from mpo.environments.guard import EnvironmentFailed
from mpo.environments.rollouts import vector_env
from mpo.study.config import ConfigError
from mpo.study.hyperparameters import Hyperparameters
from mpo.study.specs import RunSpec
from mpo.trainer import MPOTrainer
from mpo.training.artifacts import read_policies
from mpo.training.recorder import CLOCKS
from tests import probes  # noqa: F401 (registers the environments)

# The public interface: every name, parameter, order and default of it must stay.
API = """
def _format_metrics(metrics: Mapping[str, float]) -> str: ...
def _make_env(env_id: str, *, seed: int | None = None) -> gym.Env: ...
def _to_device_tensor(value: np.ndarray, device: torch.device) -> torch.Tensor: ...
def _evaluate_vectorized(agent: MPOAgent, eval_envs: gym.vector.VectorEnv, seed: int = 42) -> Dict[str, float]: ...
class MPOTrainer:
    def __init__(self, env_id: str, seed: int, device: torch.device, policy_layer_sizes: Tuple[int, ...], critic_layer_sizes: Tuple[int, ...], replay_size: int, gamma: float = 0.99, target_networks_update_period: int = 100, policy_lr: float = 0.0003, q_lr: float = 0.0003, kl_epsilon: float = 0.1, mstep_kl_epsilon: float = 0.1, temperature_init: float = 1.0, temperature_lr: float = 0.0003, lambda_init: float = 1.0, lambda_lr: float = 0.0003, epsilon_penalty: float = 0.001, max_grad_norm: float = 1.0, action_samples: int = 20, use_retrace: bool = False, retrace_steps: int = 2, retrace_mc_actions: int = 8, retrace_lambda: float = 0.95, optimizer_type: str = 'adam', sgd_momentum: float = 0.9, init_log_alpha_mean: float = 10.0, init_log_alpha_stddev: float = 1000.0): ...
    def replay_size(self) -> int: ...
    def replay_ptr(self) -> int: ...
    def _as_cpu_float_tensor(value: np.ndarray | float, shape: tuple[int, ...]) -> torch.Tensor: ...
    def _is_finite_value(value: np.ndarray | float) -> bool: ...
    def _add_transition(self, obs: np.ndarray, action_exec: np.ndarray, action_raw: np.ndarray, behaviour_logp: float, reward: float, next_obs: np.ndarray, done: float) -> bool: ...
    def _get_sequence_offsets(self, seq_len: int) -> torch.Tensor: ...
    def _sample_sequences(self, batch_size: int, seq_len: int) -> TensorDict: ...
    def train(self, total_steps: int, update_after: int, batch_size: int, out_dir: str, m_steps: int = 1): ...
"""  # noqa: E501


def functions(tree):
    """Qualified name -> (parameters as (kind, name, annotation, default), return annotation)."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{k}": v for k, v in functions(node).items()}
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + arguments.defaults
            parameters = list(zip(["plain"] * 99, arguments.args, defaults, strict=False))
            parameters += list(
                zip(["keyword"] * 99, arguments.kwonlyargs, arguments.kw_defaults, strict=False)
            )
            found[node.name] = (
                [
                    (kind, a.arg, a.annotation and ast.unparse(a.annotation), d and ast.unparse(d))
                    for kind, a, d in parameters
                ],
                node.returns and ast.unparse(node.returns),
            )
    return found


def test_the_public_interface_is_whole():
    ours = functions(ast.parse(inspect.getsource(module)))
    for name, (parameters, returns) in functions(ast.parse(API)).items():
        own, own_returns = ours[name]
        assert own[: len(parameters)] == parameters, name
        assert all(default is not None for *_, default in own[len(parameters) :]), name
        assert returns is None or own_returns == returns, name


def test_the_schema_has_the_trainers_defaults():
    parameters = inspect.signature(MPOTrainer.__init__).parameters
    renamed = {"retrace": "use_retrace", "optimizer": "optimizer_type"}
    assert {renamed.get(k, k) for k in Hyperparameters.model_fields} == (
        set(parameters)
        - {"self", "env_id", "seed", "device", "extra_seeds", "cuda_graphs", "compile_on_cpu"}
    )
    for key, field in Hyperparameters.model_fields.items():
        default = parameters[renamed.get(key, key)].default
        assert field.is_required() == (default is inspect.Parameter.empty), key
        assert field.is_required() or field.default == default, key


def make(env_id="Pendulum-v1", seed=0, **settings):
    settings = {"policy_layer_sizes": (32,), "critic_layer_sizes": (32,)} | settings
    return MPOTrainer(env_id, seed, torch.device("cpu"), replay_size=500, **settings)


def run(path, steps=260, update_after=200, **settings):
    trainer = make(**settings)
    intervals = {"snapshot_interval": 130, "log_interval": 20}
    trainer.train(steps, update_after, 8, str(path), **intervals)
    return trainer


def results(path):
    """What must not differ between equal runs: metrics without the clock, and the policies."""
    metrics = pq.read_table(path / "train.parquet").drop_columns(list(CLOCKS)).to_pydict()
    policies = [
        (step, {name: value.tolist() for name, value in state.items()})
        for step, state in read_policies(path / "policies.pt")
    ]
    return repr((metrics, policies))


def test_small_helpers():
    assert module._format_metrics({"loss": 1.23456, "n": 3}) == "loss=1.235 n=3"
    tensor = module._to_device_tensor(np.arange(3), torch.device("cpu"))
    assert tensor.dtype == torch.float32 and tensor.tolist() == [0, 1, 2]
    a, b = (module._make_env("Pendulum-v1", seed=3) for _ in range(2))
    assert np.array_equal(a.unwrapped.state, b.unwrapped.state)
    assert MPOTrainer._as_cpu_float_tensor(2.0, (1,)).tolist() == [2.0]
    assert MPOTrainer._as_cpu_float_tensor(np.zeros((2, 2)), (4,)).shape == (4,)
    assert MPOTrainer._is_finite_value(np.ones(2))
    assert not MPOTrainer._is_finite_value(np.array([1.0, np.inf]))
    assert not MPOTrainer._is_finite_value(float("nan"))


def test_a_transition_that_is_not_finite_is_refused_and_never_spanned():
    trainer = make()
    obs, action = np.zeros(3, np.float32), np.zeros(1, np.float32)
    for reward in (0.0, 1.0, 2.0, float("nan"), 3.0, 4.0, 5.0):
        stored = trainer._add_transition(obs, action, action, 0.0, reward, obs, 0.0)
        assert stored == np.isfinite(reward)
    assert (trainer.replay_size(), trainer.replay_ptr()) == (6, 6)
    assert trainer._get_sequence_offsets(2).tolist() == [0, 1]
    pairs = trainer._sample_sequences(200, 2)["reward"][0].T.tolist()
    assert {tuple(pair) for pair in pairs} == {(0, 1), (1, 2), (3, 4), (4, 5)}


def test_both_ends_of_an_episode_are_stored_apart(tmp_path):
    for env_id, terminated, truncated in (
        ("probe/Endless-v0", 0, 1),
        ("probe/Terminating-v0", 1, 0),
    ):
        trainer = run(tmp_path / env_id, env_id=env_id, steps=201)
        batch = trainer._sample_sequences(300, 1)
        assert batch["terminated"].max() == terminated
        assert batch["truncated"].max() == truncated


def test_the_successor_is_the_true_one_not_the_reset(tmp_path):
    trainer = run(tmp_path, env_id="probe/Terminating-v0", steps=201)
    batch = trainer._sample_sequences(300, 1)
    last = batch["terminated"] == 1
    assert last.any() and (batch["next_obs"][last] == 1.0).all()


def test_equal_seeds_give_equal_bits_and_unlike_seeds_do_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, seed=seed, use_retrace=True)
    first, again, other = (results(tmp_path / name) for name in "abc")
    assert first == again
    assert first != other


def test_a_seeds_numbers_do_not_depend_on_its_neighbours(tmp_path):
    run(tmp_path / "stack", seed=4, extra_seeds=(5, 6))
    for seed in (4, 5, 6):
        run(tmp_path / "alone" / str(seed), seed=seed)
        assert results(tmp_path / "stack" / f"seed{seed}") == results(
            tmp_path / "alone" / str(seed)
        )


def test_global_random_state_is_neither_used_nor_moved(tmp_path):
    run(tmp_path / "a")
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(tmp_path / "b")
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_nothing_learnt_depends_on_the_budget_or_on_what_is_recorded(tmp_path):
    run(tmp_path / "short", steps=260)
    longer = make()
    longer.train(390, 200, 8, str(tmp_path / "long"), snapshot_interval=130, log_interval=65)
    short, long = (read_policies(tmp_path / n / "policies.pt") for n in ("short", "long"))
    assert [step for step, _ in long] == [0, 130, 260, 390]
    for (_, a), (_, b) in zip(short, long[:3], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_record_says_what_ran(tmp_path):
    trainer = run(tmp_path, updates_per_step=0.5, optimizer_type="sgd")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["env_steps"] == 260 and record["updates"] == 30 == trainer.agent.updates
    assert record["episodes"] == 1 and record["status"] == "ok" and record["error"] is None
    assert record["total_steps"] == 260 and record["cpu_s"] > 0 < record["wall_s"]
    spec = RunSpec.model_validate(record["spec"])
    assert (spec.env_id, spec.seed, spec.training.optimizer) == ("Pendulum-v1", 0, "sgd")
    assert record["provenance"]["packages"]["torch"] == torch.__version__
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["env_step"] for row in rows] == list(range(20, 261, 20))
    assert rows[-1]["updates"] == 30 and np.isfinite(rows[-1]["critic_loss"])


def test_an_environment_that_answers_nan_fails_by_name(tmp_path):
    message = "environment 'probe/Broken-v0', step 7 of an episode: reward is nan"
    with pytest.raises(EnvironmentFailed, match=message):
        run(tmp_path, env_id="probe/Broken-v0")
    assert not (tmp_path / "run.json").exists()


def poison(network, index=0):
    """Puts a number that is not finite into one seed's parameters."""
    with torch.no_grad():
        network.head.bias[index].fill_(float("nan"))


def records(path):
    return [json.loads(file.read_text()) for file in sorted(path.rglob("run.json"))]


def test_a_loss_that_is_not_finite_stops_the_run_and_is_its_result(tmp_path):
    trainer = make()
    poison(trainer.agent.critic)
    trainer.train(260, 200, 8, str(tmp_path), snapshot_interval=130, log_interval=10)
    (record,) = records(tmp_path)
    assert record["status"] == "diverged"
    assert record["error"] == "a parameter of the critic is not finite at step 10"
    assert record["env_steps"] == 10 < record["total_steps"] == 260
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["env_step"] for row in rows] == [10]
    assert [step for step, _ in read_policies(tmp_path / "policies.pt")] == [0]


def test_an_action_that_is_not_finite_is_found_before_the_environment_sees_it(tmp_path):
    trainer = make()
    poison(trainer.agent.policy)
    trainer.train(260, 200, 8, str(tmp_path))
    (record,) = records(tmp_path)
    assert (record["status"], record["error"]) == ("diverged", "an action is not finite at step 0")


def test_a_loss_is_named_with_its_value(tmp_path):
    trainer = make(extra_seeds=(1,), q_lr=1e38, optimizer_type="sgd")
    trainer.train(260, 200, 8, str(tmp_path), snapshot_interval=130, log_interval=10)
    for record in records(tmp_path):
        assert record["status"] == "diverged"
        assert re.fullmatch(r"\w+ is (nan|inf) at step 210", record["error"]), record["error"]


def test_a_seed_that_diverges_leaves_its_neighbours_as_they_would_be(tmp_path):
    run(tmp_path / "alone", seed=5)
    trainer = make(seed=4, extra_seeds=(5,))
    poison(trainer.agent.policy, 0)
    trainer.train(260, 200, 8, str(tmp_path / "stack"), snapshot_interval=130, log_interval=20)
    bad, good = records(tmp_path / "stack")
    assert (bad["status"], good["status"]) == ("diverged", "ok")
    assert results(tmp_path / "stack" / "seed5") == results(tmp_path / "alone")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, "gamma.*1.5"),
        (
            {"optimizer_type": "adm"},
            "optimizer.*'adam', 'adamw', 'sgd', 'rmsprop' or 'lion'.*'adm'",
        ),
        ({"use_retrace": True, "retrace_steps": 1}, "retrace_steps must be at least 2.*1"),
        ({"env_id": "Pendulm-v1"}, "Pendulum-v1"),
        ({"env_id": 3}, "env_id: .*string, received 3"),
        ({"seed": -1}, "seed: .*greater than or equal to 0, received -1"),
        ({"seed": 2**33}, "seed: .*less than or equal to 4294967295, received 8589934592"),
        ({"seed": 0.5}, r"seed: .*integer.*, received 0\.5"),
        ({"extra_seeds": (1, 2**32)}, r"extra_seeds\.1: .*received 4294967296"),
        ({"extra_seeds": (0,)}, r"extra_seeds must differ .*, received seed 0 and .* \[0\]"),
        ({"extra_seeds": (1, 2, 1)}, r"extra_seeds must differ .*, received seed 0 .* \[1, 2, 1\]"),
        ({"compile_on_cpu": "auto"}, "compile_on_cpu: .*boolean.*, received 'auto'"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 501}, "batch_size must not exceed replay_size.*501"),
        ({"total_steps": 20.5}, r"total_steps: .*fractional part, received 20\.5"),
        ({"total_steps": -3}, "total_steps: .*greater than or equal to 1, received -3"),
        ({"checkpoint_interval_s": -1}, "checkpoint_interval_s: .*greater than 0, received -1"),
        ({"keep_resume_state": "maybe"}, "keep_resume_state: .*boolean.*, received 'maybe'"),
    ],
)
def test_bad_training_arguments_are_named_before_anything_starts(tmp_path, arguments, message):
    trainer, out = make(), tmp_path / "out"
    usual = {"total_steps": 10, "update_after": 5, "batch_size": 8, "out_dir": str(out)}
    with pytest.raises(ConfigError, match=message):
        trainer.train(**usual | arguments)
    assert trainer.stack.env_steps == 0 and not out.exists()


def test_a_training_that_ends_before_the_first_update_has_none(tmp_path):
    run(tmp_path, steps=20, update_after=200)
    (record,) = records(tmp_path)
    assert (record["status"], record["env_steps"], record["updates"]) == ("ok", 20, 0)


def test_numbers_of_numpy_are_numbers(tmp_path):
    trainer = make(seed=np.int64(4), extra_seeds=np.arange(5, 7))
    trainer.train(np.int64(10), 5, 8, str(tmp_path))
    assert [record["seed"] for record in records(tmp_path)] == [4, 5, 6]


def test_an_output_that_is_no_folder_is_found_before_the_training(tmp_path):
    trainer = make()
    (tmp_path / "out").touch()
    with pytest.raises(FileExistsError, match="out"):
        trainer.train(10, 5, 8, str(tmp_path / "out"))
    assert trainer.stack.env_steps == 0


def test_a_smaller_budget_needs_the_earlier_states(tmp_path):
    trainer = run(tmp_path / "a")
    with pytest.raises(ConfigError, match="total_steps: .*already trained to step 260.* 200$"):
        trainer.train(200, 200, 8, str(tmp_path / "b"))


def test_vectorized_evaluation_plays_each_seeds_mean_action():
    envs = vector_env("Pendulum-v1", 3)
    a, b = (module._evaluate_vectorized(make(seed=s).agent, envs) for s in (1, 2))
    assert a["length_mean"] == 200 and a["return_min"] <= a["return_mean"] <= a["return_max"]
    stacked = module._evaluate_vectorized(make(seed=1, extra_seeds=(2,)).agent, envs)
    assert stacked["return_mean"] == pytest.approx((a["return_mean"] + b["return_mean"]) / 2)
    assert stacked["return_min"] == min(a["return_min"], b["return_min"])
    assert module._evaluate_vectorized(make(seed=1).agent, envs, seed=7) != a
