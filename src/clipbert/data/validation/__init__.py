"""Stage validate: check the manifest."""
