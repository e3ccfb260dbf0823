"""Model card of a training: data, lineage, parameters, and validation metrics of the best epoch."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard

from clipbert.config.schema import Params
from clipbert.tasks import make_task
from clipbert.tasks.batch import Example
from clipbert.training.checkpoint import Checkpoints, TrainState
from clipbert.training.trainer import Trainer
from clipbert.training.training_card import training_card

ORIGIN = {
    "clipbert.data_digest": "d41d.dir",
    "clipbert.git_commit": "c0ffee",
    "clipbert.git_dirty": "true",
    "clipbert.version": "0.1.0",
    "clipbert.host": "a-machine",
}


def card(tmp_path: Path, validation: list[dict[str, float]] | None = None, best_step: int = 5, **starts: str) -> str:
    params = Params.model_validate({"model": starts})
    some = [Example(f"videos/{i}.mp4", [f"t{i}a", f"t{i}b"], ["a", "b"], ["", ""], ["", ""]) for i in range(3)]
    fingerprint: dict[str, Any] = {"seed": 0, "train.lr": 0.0015, "texts.parquet": "7e87", "frame cache": "f4a3"}
    fingerprint |= {f"the model of model.{name}": "5747" for name in starts}
    checkpoints = Checkpoints(tmp_path, fingerprint)
    unused: Any = None
    task = make_task("retrieval", params.tasks)
    trainer = Trainer(
        task, unused, unused, unused, some, some[:1], params.train, 0, 256, checkpoints, torch.device("cpu")
    )
    rows = [{"step": 5 * epoch, "epoch": epoch, "retrieval/r1": 10.0 * (4 - epoch) + 1 / 3} for epoch in (1, 2, 3)]
    rows = validation or rows
    trainer.state = TrainState(
        15, best=30.3, best_epoch=1, best_step=best_step, seconds=12.5, run_id="a run", validation=rows
    )
    return training_card(trainer, params.model, Path("artifacts/models/retrieval"), ORIGIN)


def test_what_it_says(tmp_path: Path) -> None:
    text = card(tmp_path)
    for line in (
        "| train | 3 | 6 |",
        "| val | 1 | 2 |",
        "| data/, as DVC hashes it | d41d.dir |",
        "| texts.parquet, SHA-256 | 7e87 |",
        "| frame cache, SHA-256 | f4a3 |",
        "| git commit | c0ffee and changes that were not committed |",
        "| weights at the start | random |",
        "| MLflow run | artifacts/runs/retrieval.json |",
        "| seed | 0 |",
        "| train.lr | 0.0015 |",
        "Epoch 1 of 3, the best by retrieval/mrr.",
        "| retrieval/r1 | 30.3333 |",
    ):
        assert f"\n{line}\n" in text
    assert 'pipeline("retrieval", "artifacts/models/retrieval")' in text
    assert ModelCard(text).data.eval_results is None  # test metrics are not there yet


def test_of_two_validations_in_one_epoch_the_better_one_is_shown(tmp_path: Path) -> None:
    """As a budget has them, of which the first follows early."""
    rows = [{"step": step, "epoch": 1, "retrieval/r1": float(step)} for step in (2, 5)]
    assert "\n| retrieval/r1 | 5.0 |\n" in card(tmp_path, validation=rows, best_step=5)


def test_a_start_is_named_with_its_digest(tmp_path: Path) -> None:
    text = card(tmp_path, init_from="artifacts/models/pretrain")
    assert "| weights at the start | artifacts/models/pretrain |" in text
    assert "| the model of model.init_from, SHA-256 | 5747 |" in text


def test_parts_are_named_too(tmp_path: Path) -> None:
    text = card(tmp_path, vision="models/convnext-tiny", text="models/minilm")
    assert "| weights at the start | the backbone of models/convnext-tiny, the encoder of models/minilm |" in text
    assert "| the model of model.text, SHA-256 | 5747 |" in text


def test_the_same_training_writes_the_same_card_wherever_and_whenever(tmp_path: Path) -> None:
    assert card(tmp_path) == card(tmp_path / "elsewhere")
    assert "a-machine" not in card(tmp_path)
