"""Importers: the official annotation files and media of a data set become canonical data."""
