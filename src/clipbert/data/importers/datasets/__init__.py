"""Importers of public data sets, one file each."""
