"""Atomic writes, checksums and temporary files."""
