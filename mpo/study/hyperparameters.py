"""The keys of `training`: every setting that shapes what an agent learns.

The string below a key is its description, see `config.py`. 2018a and 2018b are Abdolmaleki et al.,
arXiv 1806.06920 and 1812.02256. docs/algorithm.md explains how the keys work together.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from mpo.study.config import (
    MAX_COUNT,
    NULL,
    ConfigError,
    Count,
    Float,
    Fraction,
    Int,
    Positive,
    Real,
    Section,
    Widths,
    explain,
)
from mpo.study.optimizers import ARM, Definition, OptimizerName

Corrections = Literal["retrace", "uncorrected", "zero", "peng"]
RegressedPairs = Literal["first", "all"]
CriticName = Literal["scalar", "categorical"]
LayerNorms = Literal["first", "all"]
Critics = Literal["one", "mean", "minimum"]
OptimizerReset = Literal["never", "moments", "time"]
ActionNoise = Literal["white", "pink"]
BehaviourName = Literal["online", "target"]
Precision = Literal["float32", "bfloat16", "tf32"]


class Hyperparameters(Section):
    """What `MPOTrainer` takes besides environment, seeds and device, with its defaults."""

    policy_layer_sizes: Widths
    """Units of each hidden layer of the policy. LayerNorm and tanh follow the first layer, ELU
    each further one (Acme's LayerNormMLP)."""

    critic_layer_sizes: Widths
    """Units of each hidden layer of the critic, with the same activations as the policy."""

    replay_size: Annotated[Count, Field(le=2**24)]
    """Capacity of the replay buffer, in transitions per seed. When it is full, the oldest
    transition is overwritten."""

    gamma: Fraction = 0.99
    """Discount per environment step. The horizon is about `1 / (1 - gamma)` steps."""

    target_networks_update_period: Count = 100
    """Updates between two copies of the online networks to the target networks. Normalized
    observations change their scale at the same updates."""

    policy_lr: Positive = 3e-4
    """Learning rate of the policy."""

    q_lr: Positive = 3e-4
    """Learning rate of the critic."""

    kl_epsilon: Positive = 0.1
    """Bound of the E-step, in nats: the KL divergence of the improved action distribution from the
    target policy, averaged over states (epsilon in 2018a, eq. 8)."""

    mstep_kl_epsilon: Positive = 0.1
    """Bound of the M-step on the change of the policy's means, in nats: the KL divergence of the
    target policy from the online policy with the target's standard deviations (2018b, section
    4.2). It holds per action dimension unless `per_dimension_kl` is off."""

    temperature_init: Positive = 1.0
    """Initial temperatures of the E-step: that of the action values (eta in 2018a) and that of the
    action penalty."""

    temperature_lr: Positive = 3e-4
    """Learning rate of the temperatures."""

    lambda_init: Positive = 1.0
    """Factor on the initial KL multipliers, see `init_log_alpha_mean`."""

    lambda_lr: Positive = 3e-4
    """Learning rate of the KL multipliers."""

    epsilon_penalty: Positive = 1e-3
    """E-step bound of the action penalty, in nats; used with `action_penalty` only."""

    max_grad_norm: Annotated[Positive | None, NULL] = 1.0
    """The gradients of policy and critic are each clipped to this 2-norm, per seed; those of two
    `critics` together. `null`: not."""

    action_samples: Annotated[Int, Field(ge=2, le=10_000)] = 20
    """N: actions sampled from the target policy per state. Targets that bootstrap in that state
    use the first M of them."""

    retrace: bool = False
    """Whether the critic learns from Retrace targets (Munos et al. 2016, arXiv 1606.02647), or the
    control that `corrections` names, instead of n-step TD targets."""

    retrace_steps: Count = 2
    """T: consecutive transitions in a Retrace window, at least 2. Unused without `retrace`."""

    retrace_mc_actions: Count = 8
    """M: actions sampled from the target policy for each expectation in a target of the critic,
    with `retrace` on or off."""

    retrace_lambda: Fraction = 0.95
    """Trace decay of Retrace: lambda in `c_t = lambda * min(1, pi'(a_t|s_t) / b(a_t|s_t))`, with
    the target policy pi' and the policy b that acted. Unused without `retrace`."""

    optimizer: Annotated[str, Field(pattern=ARM)] = "adam"
    """Optimizer of policy and critic: `adam`, `adamw`, `sgd`, `rmsprop`, `lion` or an arm of
    `optimizers`. Temperatures and KL multipliers have `dual_optimizer`."""

    sgd_momentum: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd. The other optimizers ignore it."""

    init_log_alpha_mean: Annotated[Float, Field(ge=-18)] = 10.0
    """Initial KL multipliers of the means: `lambda_init * softplus(init_log_alpha_mean)`."""

    init_log_alpha_stddev: Annotated[Float, Field(ge=-18)] = 1000.0
    """Initial KL multipliers of the standard deviations: `lambda_init * softplus` of this value."""

    mstep_kl_epsilon_stddev: Annotated[Positive | None, NULL] = None
    """Bound of the M-step on the change of the policy's standard deviations, in nats (2018b,
    section 4.2). `null`: the same as `mstep_kl_epsilon`."""

    action_penalty: bool = True
    """Whether the E-step penalizes sampled actions by their distance from the box [-1, 1], as a
    second objective (MO-MPO, Abdolmaleki et al. 2020, arXiv 2005.07513)."""

    n_step: Count = 1
    """Transitions in a TD target. Unused with `retrace`."""

    updates_per_step: Positive = 1.0
    """Updates per environment step once learning has begun. Fractions add up: 0.25 is one update
    every fourth step."""

    dual_optimizer: OptimizerName = "adam"
    """Optimizer of the temperatures and KL multipliers, which are softplus of what it steps. Each
    step of `adamw` also multiplies that by `1 - 0.01 * learning rate`, whatever `weight_decay`
    is."""

    policy_init_scale: Positive = 0.5
    """Initial standard deviation of the policy, for actions scaled to [-1, 1]."""

    behaviour_policy: BehaviourName = "online"
    """The policy that collects training data."""

    target_polyak: Annotated[Annotated[Float, Field(gt=0, le=1)] | None, NULL] = None
    """Fraction of the way that the target networks move to the online networks after each update.
    `null`: copies every `target_networks_update_period` updates instead."""

    per_dimension_kl: bool = True
    """Whether the M-step bounds hold for each action dimension (Acme) or, if off, for the sum over
    the dimensions (2018b)."""

    normalize_observations: bool = False
    """Whether observations are centred and scaled by the mean and standard deviation of all
    observations acted on so far, then bounded, see `observation_bound`. All networks take over new
    statistics at once, every `target_networks_update_period` updates."""

    observation_bound: Annotated[
        Literal["clip", "squash"], Field(exclude_if=lambda value: value == "clip")
    ] = "clip"
    """How normalised observations z are bounded: `clip`, to [-10, 10], or `squash`, z / sqrt(1 +
    (z / 3)^2), which is bounded by 3, close to z near 0, and still tells large values apart, such
    as an angle that grows without bound. Unused without `normalize_observations`."""

    critic: CriticName = "scalar"
    """What the critic learns. `scalar`: action values; `categorical`: a distribution of the return
    on fixed atoms (C51, Bellemare et al. 2017, arXiv 1707.06887)."""

    critic_atoms: Annotated[Int, Field(ge=2, le=10_000)] = 51
    """Atoms of the categorical critic. Unused by the scalar critic."""

    critic_min: Real = -150.0
    """Lowest atom of the categorical critic, a discounted return; below `critic_max`."""

    critic_max: Real = 150.0
    """Highest atom of the categorical critic, a discounted return."""

    corrections: Corrections = "retrace"
    """The multi-step targets with `retrace` on, of which all but the first are controls. `retrace`:
    off-policy corrections cut by the ratio of the policies; `uncorrected`: c = lambda, the same
    without the cuts (Harutyunyan et al. 2016, arXiv 1602.04951); `zero`: c = 0, one-step TD on the
    same windows; `peng`: the lambda-mixture of n-step returns (Kozuno et al. 2021, 2103.00107).
    Unused without `retrace`."""

    regressed: RegressedPairs = "first"
    """Which state-action pairs of a window the critic is trained on, with `retrace` on or off:
    `first` or `all`. With `retrace` off, the targets of all pairs bootstrap from the same state."""

    critic_batch_size: Annotated[Count | None, NULL] = None
    """Windows per update and seed that the critic learns from: the first ones of the `batch_size`
    that the policy learns from. `null`: all of them. With it, a study gives arms that regress one
    pair of a window and arms that regress all the same number of pairs."""

    layer_norm: LayerNorms = "first"
    """Layers with a LayerNorm, in policy and critic: the `first` hidden layer, or `all` of them."""

    critics: Critics = "one"
    """`one` critic, or two that learn from the same targets. The value of an action is then the
    `mean` or the `minimum` of both (Fujimoto et al. 2018, arXiv 1802.09477), alike in the critics'
    targets and in the E-step."""

    weight_decay: Annotated[Annotated[Float, Field(ge=0, lt=1)] | None, NULL] = None
    """Decoupled weight decay of policy and critic: each step also multiplies the parameters by `1 -
    learning rate * weight_decay` (Loshchilov and Hutter 2019, arXiv 1711.05101). `null`: 0.01 with
    adamw, else 0."""

    adam_beta1: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment of adam and adamw, in policy and critic."""

    adam_beta2: Annotated[Float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment of adam and adamw, in policy and critic."""

    adam_epsilon: Positive = 1e-8
    """Added to the root of the second moment of adam and adamw, in policy and critic."""

    optimizer_reset: OptimizerReset = "never"
    """What the optimizers of policy and critic forget at each copy to the target networks.
    `moments`: all of their state (Asadi et al. 2023, arXiv 2306.17833); `time`: the number of steps
    that adam and adamw correct their moments' bias by (Adam-Rel, Ellis et al. 2024, 2412.17113)."""

    warmup_updates: Annotated[Int, Field(ge=0, le=MAX_COUNT)] = 0
    """Updates over which the learning rates of policy and critic rise linearly from 0. A count, not
    a share of the budget, so that a longer training extends a shorter one."""

    network_resets: Annotated[tuple[Count, ...], Field(max_length=100)] = ()
    """Environment steps at which policy and critic, their targets and their optimizers start anew
    (Nikishin et al. 2022, arXiv 2205.07802). Replay buffer, temperatures and KL multipliers stay.
    In ascending order."""

    action_noise: ActionNoise = "white"
    """Noise of the actions over an episode: `white`, independent at each step, or `pink`, with a
    spectrum of 1/f and so correlated over time (Eberhard et al. 2023, ICLR). With both, each action
    by itself has the policy's distribution."""

    policy_update_period: Count = 1
    """Critic steps per step of policy and duals. The updates between two of them train the critic
    alone, which is cheaper."""

    target_precision: Annotated[Precision, Field(exclude_if=lambda value: value == "float32")] = (
        "float32"
    )
    """Precision of the products between hidden layers, in the target policy and the target critic.
    They make up most of the work of an update, and have no gradients. Their factors have 24
    significant bits with `float32`, 8 with `bfloat16` and 11 with `tf32` (GPU only); sums are in
    float32. All else stays in float32: first and last layers, activations, LayerNorm and the
    online networks. `bfloat16` is meant for GPUs and for CPUs with AMX or AVX512-BF16; other CPUs
    emulate it and gain no time."""

    optimizer_definition: Definition | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """What the optimizer is, if it is no built-in. A study says it in `optimizers`."""

    @property
    def window(self) -> int:
        """Consecutive transitions in a sample from the replay buffer."""
        return self.retrace_steps if self.retrace else self.n_step

    def check_device(self, device: str) -> None:
        """Checks that a kind of device (`cpu`, `cuda` or a choice between them) can train this.

        Raises:
            ConfigError: a value needs a GPU.
        """
        if self.target_precision == "tf32" and device == "cpu":
            raise ConfigError(
                "target_precision: 'tf32' needs a GPU, received it with device 'cpu'; choose from "
                "float32, bfloat16"
            )

    @model_validator(mode="after")
    def _retrace_needs_a_window(self) -> "Hyperparameters":
        if self.retrace and self.retrace_steps < 2:
            raise ValueError(
                f"retrace_steps must be at least 2 with retrace on, received {self.retrace_steps}"
            )
        return self

    @model_validator(mode="after")
    def _resets_make_sense(self) -> "Hyperparameters":
        if list(self.network_resets) != sorted(set(self.network_resets)):
            raise ValueError(f"network_resets must ascend, received {[*self.network_resets]}")
        if self.optimizer_reset != "never" and self.target_polyak is not None:
            raise ValueError(
                "optimizer_reset: with target_polyak nothing is copied to the target networks, "
                f"received {self.optimizer_reset!r} and {self.target_polyak}"
            )
        if self.optimizer_reset == "time" and self.optimizer not in ("adam", "adamw"):
            raise ValueError(
                f"optimizer_reset: 'time' needs adam or adamw, received {self.optimizer!r}"
            )
        return self

    @model_validator(mode="after")
    def _atoms_span_a_range(self) -> "Hyperparameters":
        if self.critic_min >= self.critic_max:
            raise ValueError(
                f"critic_min must be below critic_max, received {self.critic_min} and "
                f"{self.critic_max}"
            )
        return self


class Training(Hyperparameters):
    """The hyperparameters, and when and on how much data an update runs."""

    update_after: Count
    """Environment steps before the first update; in a study, at most `total_steps`."""

    batch_size: Count
    """Windows per update and seed, drawn uniformly from the replay buffer; at most
    `replay_size`."""

    m_steps: Count = 1
    """Steps of the policy and the KL multipliers per update, all on the same E-step."""

    @model_validator(mode="after")
    def _fits_the_replay(self) -> "Training":
        if self.batch_size > self.replay_size:
            raise ValueError(
                f"batch_size must not exceed replay_size, received {self.batch_size} > "
                f"{self.replay_size}"
            )
        if (self.critic_batch_size or 0) > self.batch_size:
            raise ValueError(
                f"critic_batch_size must not exceed batch_size, received {self.critic_batch_size} "
                f"> {self.batch_size}"
            )
        if self.window > min(self.update_after, self.replay_size):
            name = "retrace_steps" if self.retrace else "n_step"
            raise ValueError(
                f"{name} must not exceed update_after or replay_size, received {self.window} with "
                f"update_after {self.update_after} and replay_size {self.replay_size}"
            )
        return self


_TRAINING_VALUE: dict[str, TypeAdapter[Any]] = {
    key: TypeAdapter(
        Annotated[field.annotation, field],  # type: ignore[arg-type]
        config=ConfigDict(allow_inf_nan=False),
    )
    for key, field in Training.model_fields.items()
}


def training_value(where: str, key: str, value: Any) -> Any:
    """Converts and checks the value of one training key, as `Training` does.

    Args:
        where: the part of the config that sets the key, for the error message.
        key: a key of `training`.
        value: what the config says.

    Raises:
        ConfigError: the value does not fit the key.
    """
    try:
        return _TRAINING_VALUE[key].validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{where}.{key}: {explain(error)}") from None
