"""Paths of a project."""

from pathlib import Path


class Project:
    """Files and folders below a project's root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.recipes = root / "recipes"
        self.artifacts = root / "artifacts"
        self.manifest = self.artifacts / "manifest"
        self.validation = self.artifacts / "validation"
        self.frames = self.artifacts / "frames"
        self.features = self.artifacts / "features"
        self.search = self.artifacts / "search"

    @property
    def dashboard(self) -> Path:
        """The page about champions, experiments, data and decisions."""
        return self.artifacts / "dashboard" / "index.html"

    def study(self, name: str) -> Path:
        """Folder of a study: its points, tables and page."""
        return self.artifacts / "study" / name

    def model(self, task: str) -> Path:
        """Folder of a task's trained model."""
        return self.artifacts / "models" / task

    def run(self, task: str) -> Path:
        """Description of the MLflow run that trained the model."""
        return self.artifacts / "runs" / f"{task}.json"

    def history(self, task: str) -> Path:
        """Folder of the training and validation curves."""
        return self.artifacts / "history" / task

    def training_metrics(self, task: str) -> Path:
        """Validation metrics of the best epoch and the cost of the training, as flat JSON."""
        return self.artifacts / "training" / f"{task}.json"

    def checkpoints(self, task: str) -> Path:
        """Folder of the checkpoints from which training resumes; not a DVC output."""
        return self.artifacts / "checkpoints" / task

    def scores(self, task: str) -> Path:
        """Folder of the scores from which a killed evaluation continues; removed at its end, not a DVC output."""
        return self.artifacts / "scores" / task

    def metrics(self, task: str) -> Path:
        """Metrics of the test split, as flat JSON."""
        return self.artifacts / "metrics" / f"{task}.json"

    def plots(self, task: str) -> Path:
        """Folder of the tables that `dvc plots` draws."""
        return self.artifacts / "plots" / task

    def predictions(self, task: str) -> Path:
        """Predictions, one row per test item."""
        return self.artifacts / "predictions" / f"{task}.parquet"

    def pictures(self, task: str) -> Path:
        """Folder of the pictures that are logged to MLflow."""
        return self.artifacts / "pictures" / task

    def report(self, task: str) -> Path:
        """Report page."""
        return self.artifacts / "reports" / f"{task}.html"

    def release(self, task: str) -> Path:
        """Description of the registered version."""
        return self.artifacts / "releases" / f"{task}.json"

    def verdict(self, task: str) -> Path:
        """Page about the last decision of the promotion gate."""
        return self.artifacts / "promotions" / f"{task}.html"
