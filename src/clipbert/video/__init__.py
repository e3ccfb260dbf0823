"""A media file to exact frames."""
