"""Recommendation of a recipe for a manifest and a machine (`clipbert recommend`), from measured rates and results."""
