"""Overview of a project: experiments, champions, data and decisions, as a table and as a page."""
