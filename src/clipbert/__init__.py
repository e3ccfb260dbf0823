"""ClipBERT: train, version, compare, promote and use sparse video-and-language models."""

__version__ = "0.1.0"
