"""Training: the loop, its data order, its optimiser and its checkpoints."""
