"""The noise of one seed's actions: white, or pink over an episode.

Each draw by itself is standard normal with both. So each action has the policy's distribution, and
its log-density is that of the policy in its state.
"""

from typing import Any, Protocol

import numpy as np

from mpo.seeding import numpy_generator
from mpo.study.hyperparameters import ActionNoise

_EPISODE = 1000
"""Steps of an episode whose length is not known; also those of the DeepMind Control Suite."""


class Noise(Protocol):
    """A stream of noise vectors, which can be saved and resumed at any step."""

    def next(self) -> np.ndarray:
        """Returns the noise of the next action, float32 [D]."""

    def begin_episode(self) -> None:
        """Tells that the next action is the first of an episode."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, for `load_state_dict`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state."""


class WhiteNoise:
    """Independent standard normal noise."""

    def __init__(self, seed: int, action_dim: int) -> None:
        """Starts the stream of a seed; `action_dim` is D."""
        self._generator = numpy_generator(seed, "act")
        self._action_dim = action_dim

    def next(self) -> np.ndarray:
        """See `Noise`."""
        return self._generator.standard_normal(self._action_dim, dtype=np.float32)

    def begin_episode(self) -> None:
        """See `Noise`."""

    def state_dict(self) -> dict[str, Any]:
        """See `Noise`."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Noise`."""
        self._generator.bit_generator.state = state["generator"]


class PinkNoise:
    """Noise whose power at frequency f is proportional to 1/f over an episode.

    Source: Eberhard et al. 2023, "Pink Noise Is All You Need", ICLR. The noise is drawn for a whole
    episode at once; see `pink`. A longer episode goes on with the next draw.
    """

    def __init__(self, seed: int, action_dim: int, episode_steps: int | None) -> None:
        """Starts the stream of a seed.

        Args:
            seed: the run's seed.
            action_dim: D.
            episode_steps: most steps of an episode; None: 1000.
        """
        self._generator = numpy_generator(seed, "pink")
        self._shape = episode_steps or _EPISODE, action_dim
        self._draw()

    def _draw(self) -> None:
        self._drawn_at = self._generator.bit_generator.state
        self._sequence, self._taken = pink(self._generator, *self._shape), 0

    def next(self) -> np.ndarray:
        """See `Noise`."""
        if self._taken == len(self._sequence):
            self._draw()
        self._taken += 1
        return self._sequence[self._taken - 1]

    def begin_episode(self) -> None:
        """See `Noise`."""
        self._draw()

    def state_dict(self) -> dict[str, Any]:
        """See `Noise`."""
        return {"generator": self._drawn_at, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Noise`."""
        self._generator.bit_generator.state = state["generator"]
        self._draw()
        self._taken = state["taken"]


def pink(generator: np.random.Generator, steps: int, dims: int) -> np.ndarray:
    """Draws pink noise as a sum of sines and cosines (Timmer and Koenig 1995, A&A 300).

    A wave of k periods has the variance 1 / k, and a constant that of one period. At every step the
    variances sum to the same, by which the noise is divided. (The package colorednoise leaves the
    constant out of this sum: over 1000 steps its variance is 1.07.)

    Args:
        generator: the source of randomness.
        steps: T, at least 1.
        dims: D, independent of each other.

    Returns:
        Standard normal noise, correlated over steps, float32 [T, D].
    """
    periods = np.arange(steps // 2 + 1).clip(min=1)
    amplitudes = np.sqrt(1 / periods / (1 / periods).sum())
    cosines, sines = generator.standard_normal((2, len(periods), dims))
    waves = (cosines - 1j * sines) * (amplitudes * steps / 2)[:, None]
    # A constant and, for even T, the fastest wave have no sine, and count once instead of twice.
    once = [0, -1] if steps % 2 == 0 else [0]
    waves[once] = 2 * waves[once].real
    return np.fft.irfft(waves, n=steps, axis=0).astype(np.float32)


def make_noise(kind: ActionNoise, seed: int, action_dim: int, episode_steps: int | None) -> Noise:
    """Makes the noise that the config names; for the arguments see `PinkNoise`."""
    if kind == "white":
        return WhiteNoise(seed, action_dim)
    return PinkNoise(seed, action_dim, episode_steps)
