"""Trained models in use: a folder, a video and a text to scores and answers."""
