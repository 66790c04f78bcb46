"""Probe environments: known optima, or known failures; registered on import as `probe/...-v0`."""

import ctypes
import itertools
import os
import signal
import sys
import time

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict


class Target(gym.Env):
    """One step; the best action is `target`, in the environment's own units."""

    observation_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, low: float = -1.0, high: float = 1.0, target: float = 0.3) -> None:
        self.action_space = Box(np.float32(low), np.float32(high), (1,))
        self._target, self._scale = target, (high - low) / 2

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = -(((action[0] - self._target) / self._scale) ** 2)
        return np.zeros(1, np.float32), float(reward), True, False, {}


class Copy(gym.Env):
    """One step; the best action equals the observation, which is a Dict."""

    observation_space = Dict({"x": Box(-1, 1, (1,)), "y": Box(-1, 1, (1,))})
    action_space = Box(-1, 1, (2,))

    def _obs(self):
        return {"x": self._xy[:1], "y": self._xy[1:]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._xy = self.np_random.uniform(-0.8, 0.8, 2).astype(np.float32)
        return self._obs(), {}

    def step(self, action):
        return self._obs(), -float(np.square(action - self._xy).sum()), True, False, {}


class TwoSteps(gym.Env):
    """Two steps with different best actions, 0.5 then -0.5; only the first observation is 0."""

    observation_space = Box(0, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = -float((action[0] - (0.5, -0.5)[self._time]) ** 2)
        self._time += 1
        return np.ones(1, np.float32), reward, self._time == 2, False, {}


class Regulator(gym.Env):
    """An infinite-horizon LQR: dynamics x' = a x + b u, cost x^2 + r u^2.

    Its optimal actions, from the Riccati equation, are well inside the bounds.
    """

    observation_space = Box(-np.inf, np.inf, (1,))
    action_space = Box(-1, 1, (1,))
    A, B, R = 0.95, 0.6, 0.5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._x = self.np_random.uniform(-1, 1)
        return np.array([self._x], np.float32), {}

    def step(self, action):
        reward = -(self._x**2 + self.R * float(action[0]) ** 2)
        self._x = self.A * self._x + self.B * float(action[0])
        return np.array([self._x], np.float32), reward, False, False, {}


class Slow(Regulator):
    """A regulator for which a worker pays."""

    def step(self, action):
        time.sleep(0.002)
        return super().step(action)


class Chain(gym.Env):
    """Walks through `LENGTH` one-hot states whatever the action; reward 1 at the end."""

    LENGTH = 5
    observation_space = Box(0, 1, (LENGTH,), np.float32)
    action_space = Box(-1, 1, (1,))

    def _obs(self):
        return np.eye(self.LENGTH, dtype=np.float32)[min(self._time, self.LENGTH - 1)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time = 0
        return self._obs(), {}

    def step(self, action):
        self._time += 1
        over = self._time == self.LENGTH
        return self._obs(), float(over), over, False, {}


class Clock(gym.Env):
    """Reward 1 per step; terminates after `length` steps, or runs to its time limit."""

    observation_space = Box(0, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,))

    def __init__(self, length: int | None = None) -> None:
        self._length, self._time = length, 0

    def _obs(self):
        return np.array([self._time / self._length if self._length else 0.0], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time = 0
        return self._obs(), {}

    def step(self, action):
        self._time += 1
        return self._obs(), 1.0, self._time == self._length, False, {}


class Broken(Clock):
    """The seventh step of each episode returns NaN as reward."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, float("nan") if self._time == 7 else reward, terminated, truncated, info


class Raising(Clock):
    """The third step of each episode raises an exception."""

    def step(self, action):
        if self._time == 2:
            raise ZeroDivisionError("a sensor is gone")
        return super().step(action)


class Unlucky(Clock):
    """The third step raises an exception in episodes with certain reset seeds."""

    def reset(self, *, seed=None, options=None):
        self._unlucky = seed is not None and seed % 64 == 44
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self._unlucky and self._time == 2:
            raise RuntimeError("no luck")
        return super().step(action)


class Blind(Clock):
    """The second observation of each episode is too large for float32."""

    def step(self, action):
        _, *rest = super().step(action)
        return np.array([1e39 if self._time == 2 else 0.0]), *rest


class Fickle(Clock):
    """Not deterministic: observations depend on more than reset seed and actions."""

    _calls = itertools.count()

    def _obs(self):
        return np.array([next(self._calls)], np.float32)


class Hanging(Clock):
    """The ninth step of the second episode never returns."""

    def reset(self, *, seed=None, options=None):
        self._episode = getattr(self, "_episode", 0) + 1
        return super().reset(seed=seed)

    def step(self, action):
        while self._episode == 2 and self._time == 8:
            time.sleep(0.1)
        return super().step(action)


class Seized(Clock):
    """The fifth step never returns, and holds the interpreter's lock."""

    def step(self, action):
        if self._time == 4:
            ctypes.PyDLL(None).pause()
        return super().step(action)


class Elsewhere(Clock):
    """In a worker process, the fifth step never returns, or kills its process."""

    def __init__(self, killed: bool = False) -> None:
        super().__init__()
        self._killed = killed

    def step(self, action):
        time.sleep(0.002)  # so long that a worker pays
        if self._time == 4 and any("import serve" in word for word in sys.orig_argv):
            if self._killed:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1e6)
        return super().step(action)


class Told(gym.Env):
    """Answers with the values that it is told, whatever the action."""

    observation_space = Box(-1, 1, (2,))
    action_space = Box(-1, 1, (1,))

    def __init__(self, obs=(0.0, 0.0), reward=0.0, first=None, over=False, **spaces) -> None:
        self.obs = np.array(obs) if isinstance(obs, tuple) else obs
        self.first = self.obs if first is None else first
        self.reward, self.over = reward, over
        vars(self).update(spaces)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.first, {}

    def step(self, action):
        self.action = action
        return self.obs, self.reward, self.over, False, {}


class Unfit(gym.Env):
    """Has unsuitable spaces and nothing else."""

    def __init__(self, action_space: gym.Space, observation_space: gym.Space) -> None:
        self.action_space, self.observation_space = action_space, observation_space


_LINE = Box(-1, 1, (1,))
for _name, _class, _limit, _arguments in (
    ("Target", Target, 1, {}),
    ("Rescaled", Target, 1, {"low": 0.0, "high": 10.0, "target": 7.5}),
    ("Copy", Copy, 1, {}),
    ("TwoSteps", TwoSteps, 5, {}),
    ("Regulator", Regulator, 20, {}),
    ("Slow", Slow, 20, {}),
    ("Chain", Chain, 50, {}),
    ("Endless", Clock, 5, {}),
    ("Eternal", Clock, None, {}),
    ("Long", Clock, 20_000, {}),
    ("Terminating", Clock, 50, {"length": 3}),
    ("Broken", Broken, 10, {}),
    ("Raising", Raising, 10, {}),
    ("Unlucky", Unlucky, 10, {}),
    ("Blind", Blind, 10, {}),
    ("Fickle", Fickle, 10, {}),
    ("Hanging", Hanging, 10, {}),
    ("Seized", Seized, 10, {}),
    ("Elsewhere", Elsewhere, 10, {}),
    ("Killed", Elsewhere, 10, {"killed": True}),
    ("Told", Told, 10, {}),
    ("Discrete", Unfit, 5, {"action_space": gym.spaces.Discrete(2), "observation_space": _LINE}),
    (
        "Unbounded",
        Unfit,
        5,
        {"action_space": Box(-np.inf, np.inf, (1,)), "observation_space": _LINE},
    ),
    ("Matrix", Unfit, 5, {"action_space": Box(-1, 1, (2, 2)), "observation_space": _LINE}),
    (
        "Sequence",
        Unfit,
        5,
        {"action_space": _LINE, "observation_space": gym.spaces.Sequence(_LINE)},
    ),
):
    gym.register(f"probe/{_name}-v0", _class, max_episode_steps=_limit, kwargs=_arguments)
