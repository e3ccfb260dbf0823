"""Decoding of media files into exact frames."""
