"""Loading, converting and checking model weights."""
