"""Statistics of a study: tables of runs, normalised scores, intervals, effects."""
