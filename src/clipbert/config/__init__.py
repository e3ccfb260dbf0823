"""Parameters: the schema of params.yaml, recipes and their YAML."""
