"""HTML pages that are one file: the layout and the styles that they share."""
