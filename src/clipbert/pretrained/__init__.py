"""Pretrained parts for `model.vision` and `model.text`: from wheels of the package index and from the hub."""
