"""Section train: messages about wrong values, and its mapping in files, overrides and records."""

import shutil
from pathlib import Path

import pytest
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides

from clipbert.config.help import explain
from clipbert.config.load import load_params
from clipbert.config.recipes import dvc_arguments
from clipbert.config.schema import Params
from clipbert.errors import ClipBertError

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("milestones=[0.7, 0.5]", " = [0.7, 0.5]: expected at least one fraction, each larger than the one before"),
        ("milestones=[0.5, 0.5]", " = [0.5, 0.5]: expected at least one fraction, each larger than the one before"),
        ("milestones=[]", " = []: expected at least one fraction"),
        ("milestones=[0.5, 1.2]", ".1 = 1.2: expected less than or equal to 1 (schedule multi_step: fractions"),
        ("gamma=0", " = 0: expected greater than 0"),
        ("gamma=1.5", " = 1.5: expected less than or equal to 1"),
        ("schedule=cosin", " = 'cosin': expected 'linear', 'cosine', 'inverse_sqrt', 'multi_step' or 'constant'"),
        ("warmup_fraction=1.5", " = 1.5: expected less than or equal to 1"),
        ("budget=900", " = 900: expected a valid string (budget of the training instead of epochs: 900 s"),
        ("budget='900'", " = '900': expected a number above 0 and one of s, min, h, steps, J, kJ"),
        ("budget=0 s", " = '0 s': expected a number above 0"),
        ("budget=2 days", " = '2 days': expected a number above 0"),
        ("budget=1.5 steps", " = '1.5 steps': expected a whole number of steps"),
        ("max_grad_norm=0", " = 0: expected greater than 0 (gradients with a larger norm"),
        ("max_grad_norm=.nan", " = nan: expected greater than 0"),
        ("label_smoothing=1", " = 1: expected less than 1"),
        ("label_smoothing=-0.1", " = -0.1: expected greater than or equal to 0"),
        ("ema_decay=1.0", " = 1.0: expected less than 1"),
        ("ema_decay=0", " = 0: expected greater than 0"),
        ("patience=0", " = 0: expected greater than or equal to 1"),
        ("patience=1.5", " = 1.5: expected a valid integer"),
        ("gradient_accumulation_steps=0", " = 0: expected greater than or equal to 1"),
        ("vision_lr=2", " = 2: expected less than or equal to 1"),
        ("weight_decay=-1", " = -1: expected greater than or equal to 0"),
        ("freeze_vision=1", " = 1: expected a valid boolean"),
        ("vision_lr_decay=0", " = 0: expected greater than 0 (factor of the backbone's learning rate"),
        ("vision_lr_decay=1.1", " = 1.1: expected less than or equal to 1"),
        ("unfreeze_at=0", " = 0: expected greater than 0 (fraction of the training after which"),
        ("unfreeze_at=1", " = 1: expected less than 1"),
        ("unfreeze_at=half", " = 'half': expected a valid number"),
        (
            "lr_multipliers={clipbert.vision: -1}",
            ".clipbert.vision = -1: expected greater than 0 (learning rate multipliers",
        ),
        ("lr_multipliers={clipbert.vision: 1001}", ".clipbert.vision = 1001: expected less than or equal to 1000"),
        ("lr_multipliers=[0.1]", " = [0.1]: expected a valid dictionary"),
        (
            "lr_multipliers.clipbert.vision=0.1",
            ".clipbert = {'vision': 0.1}: expected a valid number (learning rate multipliers by prefix of the "
            "parameter name, for example {clipbert.embeddings: 0.1})",
        ),
    ],
)
def test_a_wrong_value_is_told_with_its_field(override: str, message: str) -> None:
    with pytest.raises(ClipBertError) as error:
        load_params(PARAMS, [f"train.{override}"])
    assert f"train.{override.partition('=')[0].partition('.')[0]}{message}" in str(error.value)
    assert str(error.value).startswith(f"--set train.{override}: train.")


def test_right_values_are_taken_as_they_are() -> None:
    overrides = ["budget=15 min", "milestones=[0.0, 0.3, 1.0]", "ema_decay=0.999", "patience=3", "max_grad_norm=.inf"]
    train = load_params(PARAMS, [f"train.{override}" for override in overrides]).train
    assert (train.budget, train.milestones, train.ema_decay, train.patience) == ("15 min", [0.0, 0.3, 1.0], 0.999, 3)


def test_multipliers_are_one_parameter_for_whoever_lists_them() -> None:
    assert Params().flat()["train.lr_multipliers"] == {}
    params = load_params(PARAMS, ["train.lr_multipliers={clipbert.embeddings: 0.1, classifier: 2}"])
    expected = {"clipbert.embeddings": 0.1, "classifier": 2.0}
    assert params.train.lr_multipliers == expected
    assert params.flat()["train.lr_multipliers"] == expected
    assert params.training_parameters("retrieval")["train.lr_multipliers"] == expected  # MLflow and the fingerprint
    rows = {key: (value, meaning) for key, value, meaning in explain(params)}
    value, meaning = rows["train.lr_multipliers"]
    assert value == expected
    assert "learning rate multipliers by prefix of the parameter name" in meaning


def test_multipliers_reach_the_parameters_through_dvc(tmp_path: Path) -> None:
    """`dvc exp run -S` adds an entry to the mapping with a plus, whether the file has entries or not."""
    file = tmp_path / "params.yaml"
    shutil.copy(PARAMS, file)
    through_dvc(file, "+train.lr_multipliers={clipbert.embeddings: 0.1}")
    through_dvc(file, "+train.lr_multipliers={classifier: 2}")
    assert load_params(file).train.lr_multipliers == {"clipbert.embeddings": 0.1, "classifier": 2.0}


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("train.budget=15 min", "budget", "15 min"),
        ("train.budget=5000 steps", "budget", "5000 steps"),
        ("train.milestones=[0.3,0.6]", "milestones", [0.3, 0.6]),
        ("train.schedule=inverse_sqrt", "schedule", "inverse_sqrt"),
        ("train.freeze_vision=true", "freeze_vision", True),
        ("train.ema_decay=0.999", "ema_decay", 0.999),
        ("train.patience=3", "patience", 3),
        ("train.vision_lr=null", "vision_lr", None),
        ("train.max_grad_norm=inf", "max_grad_norm", float("inf")),
    ],
)
def test_each_field_is_the_same_through_dvc_and_through_set(
    tmp_path: Path, word: str, field: str, value: object
) -> None:
    file = tmp_path / "params.yaml"
    shutil.copy(PARAMS, file)
    through_dvc(file, word)
    assert getattr(load_params(file).train, field) == value
    assert getattr(load_params(PARAMS, [word.replace("=inf", "=.inf")]).train, field) == value


def through_dvc(file: Path, word: str) -> None:
    """Apply an argument of `dvc exp run -S` to the parameter file with DVC's own functions."""
    apply_overrides(file, to_path_overrides([word])["params.yaml"])


def test_a_recipe_with_multipliers_says_where_they_go(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# Mine\ntrain: {lr_multipliers: {clipbert.embeddings: 0.1}}")
    with pytest.raises(ClipBertError, match=r"train\.lr_multipliers = .* cannot be passed .* into params\.yaml"):
        dvc_arguments(tmp_path, "mine", PARAMS)
    (tmp_path / "none.yaml").write_text("# None\ntrain: {lr_multipliers: {}, lr: 0.1}")
    assert dvc_arguments(tmp_path, "none", PARAMS) == ["-S", "train.lr_multipliers={}", "-S", "train.lr=0.1"]


def test_what_was_never_frozen_is_not_unfrozen() -> None:
    with pytest.raises(
        ClipBertError, match=r"unfreeze_at is 0\.5 and freeze_vision false: .*Set freeze_vision to true, or unfreeze_at"
    ):
        load_params(PARAMS, ["train.unfreeze_at=0.5"])
    assert load_params(PARAMS, ["train.unfreeze_at=0.5", "train.freeze_vision=true"]).train.unfreeze_at == 0.5


def test_features_of_a_backbone_that_learns_are_not_cached() -> None:
    with pytest.raises(
        ClipBertError, match=r"feature_cache is true and freeze_vision false: .*Set freeze_vision to true"
    ):
        load_params(PARAMS, ["train.feature_cache=true"])
    assert load_params(PARAMS, ["train.feature_cache=true", "train.freeze_vision=true"]).train.feature_cache
