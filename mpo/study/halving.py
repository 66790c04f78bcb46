"""Successive halving: all candidates are trained for a while, and only the best for longer.

Sources: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", arXiv 1502.07943; a factor other than 2 as in Li et al., "Hyperband", arXiv
1603.06560, algorithm 1.
"""

from typing import Annotated

from pydantic import Field

from mpo.study.config import Int, Section


class Halving(Section):
    """Successive halving of the candidates, each arm's by themselves."""

    factor: Annotated[Int, Field(ge=2, le=100)] = 3
    """After each rung, the best 1/factor of an arm's candidates go on, rounded down, to a budget
    that is `factor` times as long."""

    rungs: Annotated[Int, Field(ge=2, le=20)]
    """Number of budgets at which candidates are compared. The last one is `tuning.budget`; of the
    candidates there, at least two, one is chosen."""

    def steps(self, last: int) -> list[int]:
        """Returns the budget of each rung, rounded down, where the last rung's is given."""
        return [last // self.factor**later for later in reversed(range(self.rungs))]

    def left(self, count: int, rung: int) -> int:
        """Returns how many of an arm's candidates are in a rung, the first being 1."""
        return count // self.factor ** (rung - 1)
