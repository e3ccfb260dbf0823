"""Training: the loop, its data order, its optimizer and its checkpoints."""
