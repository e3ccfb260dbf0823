"""Comparison of models on the same test items: effects with intervals, paired tests, and items won and lost."""
