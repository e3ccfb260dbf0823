"""Embedded sample data set."""
