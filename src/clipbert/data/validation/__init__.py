"""Stage validate: checks of the manifest."""
