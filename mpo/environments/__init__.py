"""What is acted in: Gymnasium and dm_control tasks as the agent sees them, and roll-outs."""
