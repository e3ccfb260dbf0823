"""Feature cache: what a frozen backbone computes of every cached frame, stored once and read by every epoch."""

from clipbert.feature_cache.reader import FeatureCache

__all__ = ["FeatureCache"]
