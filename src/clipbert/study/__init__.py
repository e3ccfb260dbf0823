"""Studies: a grid of trainings under one budget, run as DVC experiments, and what the grid says about each axis."""
