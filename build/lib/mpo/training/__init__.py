"""One training process: stacked seeds, training loop, recorded files, checkpoints."""
