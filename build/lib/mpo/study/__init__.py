"""What is planned: the config's schema, the runs it plans, and where their files are."""
