"""A slow, plain reference of MPO for one learner: the papers' formulas in float64.

Everything is computed sample by sample.

Sources: Abdolmaleki et al. 2018a (arXiv 1806.06920) and 2018b (1812.02256); MO-MPO, Abdolmaleki et
al. 2020 (2005.07513); Retrace, Munos et al. 2016 (1606.02647). It shares no code with `mpo`;
`PlainPolicy` and `PlainCritic` copy the weights of one stacked learner.

Letters: N action samples, B states, T time, D action dimensions.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def mean_over(terms: list[Tensor]) -> Tensor:
    return sum(terms, zero()) / len(terms)


# E-step (2018a, section 4.1; MO-MPO, section 4.1).


def weights(values: Tensor, temperature: Tensor) -> Tensor:
    """q(a_n | s_b) proportional to exp(Q / eta) over the N samples, [N, B]."""
    samples, states = values.shape
    table = torch.zeros(samples, states, dtype=torch.float64)
    for b in range(states):
        scaled = [values[n, b].item() / temperature.item() for n in range(samples)]
        highest = max(scaled)
        powers = [math.exp(x - highest) for x in scaled]
        for n in range(samples):
            table[n, b] = powers[n] / math.fsum(powers)
    return table


def temperature_dual(values: Tensor, temperature: Tensor, epsilon: float) -> Tensor:
    """g(eta) = eta * epsilon + eta * mean_b log (1 / N) sum_n exp(Q / eta) (2018a, eq. 8)."""
    logs = []
    for b in range(values.shape[1]):
        scaled = torch.stack([values[n, b] / temperature for n in range(len(values))])
        logs.append(torch.logsumexp(scaled, 0) - math.log(len(values)))
    return temperature * epsilon + temperature * mean_over(logs)


def kl_from_uniform(table: Tensor) -> Tensor:
    """mean_b sum_n q log(q / (1 / N)), in nats."""
    kls = []
    for b in range(table.shape[1]):
        terms = [q * math.log(q * len(table)) for q in table[:, b].tolist() if q > 0]
        kls.append(torch.tensor(math.fsum(terms), dtype=torch.float64))
    return mean_over(kls)


def penalty_values(actions: Tensor) -> Tensor:
    """Minus the Euclidean distance of each action [N, B, D] from the box [-1, 1], [N, B]."""
    samples, states, dims = actions.shape
    costs = torch.zeros(samples, states, dtype=torch.float64)
    for n in range(samples):
        for b in range(states):
            over = [max(abs(float(actions[n, b, d])) - 1, 0.0) for d in range(dims)]
            costs[n, b] = -math.sqrt(sum(x * x for x in over))
    return costs


# M-step (2018b, section 4.2 and appendix).


def log_density(x: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """log N(x; mean, stddev^2) of scalars."""
    return -((x - mean) ** 2) / (2 * stddev**2) - torch.log(stddev * math.sqrt(2 * math.pi))


def cross_entropy(table: Tensor, actions: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """-mean_b sum_n w_nb log pi(a_nb | s_b)."""
    samples, _, dims = actions.shape
    losses = []
    for b in range(table.shape[1]):
        total = zero()
        for n in range(samples):
            for d in range(dims):
                density = log_density(actions[n, b, d], mean[b, d], stddev[b, d])
                total = total - table[n, b] * density
        losses.append(total)
    return mean_over(losses)


def gaussian_kl(mean: Tensor, stddev: Tensor, other_mean: Tensor, other_stddev: Tensor) -> Tensor:
    """KL(N(mean, stddev^2) || N(other_mean, other_stddev^2)) of scalars, in nats."""
    spread = (stddev**2 + (mean - other_mean) ** 2) / (2 * other_stddev**2)
    return torch.log(other_stddev / stddev) + spread - 0.5


def kl_per_dimension(
    mean: Tensor, stddev: Tensor, other_mean: Tensor, other_stddev: Tensor
) -> list[Tensor]:
    """mean_b KL, in nats, as a list over the D action dimensions."""
    return [
        mean_over(
            [
                gaussian_kl(mean[b, d], stddev[b, d], other_mean[b, d], other_stddev[b, d])
                for b in range(len(mean))
            ]
        )
        for d in range(mean.shape[1])
    ]


def lagrangian(kls: list[Tensor], alpha: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Sums over D of alpha * KL (alpha detached) and of alpha * (epsilon - KL) (KL detached)."""
    policy = sum((alpha[d].detach() * kls[d] for d in range(len(kls))), zero())
    dual = sum((alpha[d] * (epsilon - kls[d].detach()) for d in range(len(kls))), zero())
    return policy, dual


# Critic.


def critic_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Half the mean squared error."""
    return mean_over([0.5 * (values[i] - targets[i]) ** 2 for i in range(len(values))])


def n_step(
    rewards: Tensor, terminated: Tensor, truncated: Tensor, gamma: float
) -> tuple[float, float, int]:
    """For one window [T]: the discounted rewards, the bootstrap's factor, the last step's index."""
    last = 0
    while last < len(rewards) - 1 and not terminated[last] and not truncated[last]:
        last += 1
    total = math.fsum(gamma**t * float(rewards[t]) for t in range(last + 1))
    return total, 0.0 if terminated[last] else gamma ** (last + 1), last


def retrace(
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    successor_values: Tensor,
    taken_values: Tensor,
    ratios: Tensor,
    gamma: float,
    lambda_: float,
) -> list[float]:
    """Retrace targets of one window [T] (Munos et al., eq. 3), for every t:

    Q(s_t, a_t) + sum_k gamma^(k-t) (prod_{i=t+1..k} c_i) delta_k, with
    delta_k = r_k + gamma * E_pi Q(s_{k+1}, .) - Q(s_k, a_k), without the bootstrap if step k
    terminates, and c_i = lambda * min(1, pi / b). The sum over k stops at the end of the episode or
    of the window.
    """
    steps = len(rewards)
    targets = []
    for t in range(steps):
        terms = [float(taken_values[t])]
        for k in range(t, steps):
            bootstrap = 0.0 if terminated[k] else gamma * float(successor_values[k])
            delta = float(rewards[k]) + bootstrap - float(taken_values[k])
            trace = 1.0
            for i in range(t + 1, k + 1):
                trace *= lambda_ * min(1.0, float(ratios[i]))
            terms.append(gamma ** (k - t) * trace * delta)
            if terminated[k] or truncated[k]:
                break
        targets.append(math.fsum(terms))
    return targets


# Networks: one learner of a stack, as plain torch modules.


def plain_linear(layer: nn.Module, index: int) -> nn.Linear:
    """One learner's affine map; the stack stores weights as [in, out], torch as [out, in]."""
    weight = layer.weight[index].detach().T
    plain = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        plain.weight.copy_(weight)
        plain.bias.copy_(layer.bias[index, 0])
    return plain


def plain_norm(stacked: nn.Module, index: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(stacked.gain.shape[-1], dtype=stacked.gain.dtype)
    with torch.no_grad():
        norm.weight.copy_(stacked.gain[index, 0])
        norm.bias.copy_(stacked.bias[index, 0])
    return norm


def plain_torso(torso: nn.Module, index: int) -> list[nn.Module]:
    modules = [plain_norm(torso.norm, index), nn.Tanh()]
    for layer, own in itertools.zip_longest(torso.layers, torso.norms):
        modules.append(plain_linear(layer, index))
        modules += [plain_norm(own, index)] if own is not None else []
        modules.append(nn.ELU())
    return modules


def in_stack_order(layers: nn.Sequential) -> list[nn.Parameter]:
    """The parameters in the order of the stack: the LayerNorms of later layers before the head."""
    first, norm, *rest, head = (m for m in layers if [*m.parameters()])
    rest.sort(key=lambda module: isinstance(module, nn.LayerNorm))
    return [p for module in (first, norm, *rest, head) for p in module.parameters()]


class PlainPolicy(nn.Module):
    """Linear, LayerNorm, tanh, (Linear, ELU)*, then a linear head for mean and raw stddev."""

    def __init__(self, stacked: nn.Module, index: int, init_scale: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            plain_linear(stacked.first, index),
            *plain_torso(stacked.torso, index),
            plain_linear(stacked.head, index),
        )
        self.init_scale = init_scale

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        out = self.layers(obs)
        dims = out.shape[-1] // 2
        unit = F.softplus(out[..., dims:]) / math.log(2)
        return out[..., :dims], self.init_scale * unit + 1e-6


class PlainCritic(nn.Module):
    """The same torso on the concatenation of observation and clipped action; a scalar head."""

    def __init__(self, stacked: nn.Module, index: int) -> None:
        super().__init__()
        obs_part = plain_linear(stacked.first_obs, index)
        action_part = plain_linear(stacked.first_action, index)
        inputs = obs_part.in_features + action_part.in_features
        joint = nn.Linear(inputs, obs_part.out_features, dtype=obs_part.weight.dtype)
        with torch.no_grad():
            joint.weight.copy_(torch.cat([obs_part.weight, action_part.weight], 1))
            joint.bias.copy_(obs_part.bias + action_part.bias)
        head = plain_linear(stacked.head, index)
        self.layers = nn.Sequential(joint, *plain_torso(stacked.torso, index), head)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.layers(torch.cat([obs, action.clamp(-1, 1)], -1)).squeeze(-1)
