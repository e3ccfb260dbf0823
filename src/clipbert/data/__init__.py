"""The data of a project: manifest, ingest, validation, importers and the sample set."""
