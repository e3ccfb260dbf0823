"""Stage ingest: probe the media files and check the annotations."""
