"""Metrics as pure functions of predictions, by family, and their confidence intervals.

The package is below `clipbert.tasks` in the order of imports, because tasks compute their metrics in the validation of
a training too. Each metric is defined here once.
"""
