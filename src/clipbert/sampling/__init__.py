"""Which frames of a video are used."""
