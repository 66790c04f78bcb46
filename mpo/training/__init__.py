"""One training: the stacked seeds, the loop, and all it writes and resumes from."""
