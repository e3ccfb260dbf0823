"""Measuring a trained model: predictions, metrics, comparisons, the report."""
