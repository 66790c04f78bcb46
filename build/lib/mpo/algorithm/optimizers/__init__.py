"""Optimizers of S stacked learners: built-in ones, and any that can be imported."""

from mpo.algorithm.optimizers.built_in import OPTIMIZERS, Settings
from mpo.algorithm.optimizers.imported import classes
from mpo.algorithm.optimizers.layout import flatten_
from mpo.algorithm.optimizers.stacked import StackedOptimizer

__all__ = ["OPTIMIZERS", "Settings", "StackedOptimizer", "classes", "flatten_"]
