"""Environments: Gymnasium and dm_control tasks as the agent sees them, and rollouts."""
