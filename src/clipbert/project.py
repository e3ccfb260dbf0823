"""Paths of a project's folder."""

from pathlib import Path


class Project:
    """Where everything lies below the project's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.recipes = root / "recipes"
        self.artifacts = root / "artifacts"
        self.manifest = self.artifacts / "manifest"
        self.validation = self.artifacts / "validation"
        self.frames = self.artifacts / "frames"

    def model(self, task: str) -> Path:
        """The trained model of a task."""
        return self.artifacts / "models" / task

    def run(self, task: str) -> Path:
        """Which experiment run trained it."""
        return self.artifacts / "runs" / f"{task}.json"

    def history(self, task: str) -> Path:
        """The curves of its training."""
        return self.artifacts / "history" / task

    def checkpoints(self, task: str) -> Path:
        """Checkpoints from which a killed training resumes; not a DVC output."""
        return self.artifacts / "checkpoints" / task

    def metrics(self, task: str) -> Path:
        """Its flat metrics."""
        return self.artifacts / "metrics" / f"{task}.json"

    def plots(self, task: str) -> Path:
        """The tables behind its curves."""
        return self.artifacts / "plots" / task

    def predictions(self, task: str) -> Path:
        """One row a test item."""
        return self.artifacts / "predictions" / f"{task}.parquet"

    def report(self, task: str) -> Path:
        """Its page."""
        return self.artifacts / "reports" / f"{task}.html"

    def release(self, task: str) -> Path:
        """Its registered version."""
        return self.artifacts / "releases" / f"{task}.json"
