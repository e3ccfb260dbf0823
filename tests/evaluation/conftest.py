"""Property tests draw the same examples in every run, and a loaded machine fails none."""

from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")
