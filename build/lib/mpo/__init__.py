"""A reproducible benchmark of Maximum a Posteriori Policy Optimisation (MPO)."""

ALGORITHM_VERSION = 3
"""Part of every run's identity: bump it with any change that alters a training trajectory."""

EVALUATION_VERSION = 1
"""Likewise for evaluation: bump it with any change that alters what a roll-out returns."""
