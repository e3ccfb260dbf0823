"""Stage ingest: media files are probed and annotations checked."""
