"""Batch prediction: a table of videos and texts to a table of answers."""
