"""The jobs of the workflow's rules: one module per verb, plus heartbeats and GPU slots."""
