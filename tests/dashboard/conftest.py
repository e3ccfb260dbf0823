"""A project with real experiments of DVC, registered versions and decisions, made once."""

from pathlib import Path

import pytest
from experiment_project import make_experiment_project, run_experiment
from policies import task_policy
from small_releases import releaser, save_model, scored_items

from clipbert.release.promotion import promote


@pytest.fixture(scope="session")
def experiments_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two experiments and two versions of which the second is the champion."""
    root = make_experiment_project(tmp_path_factory.mktemp("experiments") / "project")
    run_experiment(root, "slower", "train.lr=0.0005", "train.num_workers=2")
    run_experiment(root, "faster", "train.lr=0.003", "tasks.retrieval.negatives=4")
    models = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        release = releaser(root, lambda task, seed: save_model(models / str(seed), task, seed))
        for seed, right in ((0, 20), (1, 45)):
            release(seed, scored_items(right))
            assert promote(root, "retrieval", task_policy()).decision == "promoted"
    return root
