"""What a rule of the workflow runs: one module a verb, and what keeps a job alive."""
