"""HTTP server of trained models: `clipbert serve` and the page of `clipbert app`."""
