"""The command line, and the jobs that train, evaluate, film, verify, merge and archive."""
