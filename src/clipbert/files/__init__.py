"""Atomic files, folder checksums, leftovers of killed processes."""
