"""params.yaml: what is accepted, and what a wrong file says."""

from pathlib import Path

import pytest

from clipbert.errors import ClipBertError
from clipbert.params import Params, check_task, explain, load_params

PROJECT = Path(__file__).parents[1]


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_the_committed_file_is_valid_and_says_the_defaults_of_the_code() -> None:
    params = load_params(PROJECT / "params.yaml")
    assert params.model.preset == "tiny"
    assert params.flat()["train.lr"] == params.train.lr


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    assert load_params(write(tmp_path, "")) == Params()


def test_numbers_are_read_as_dvc_writes_them(tmp_path: Path) -> None:
    assert load_params(write(tmp_path, "train: {lr: 5e-05}")).train.lr == 5e-5
    assert load_params(write(tmp_path, ""), ["train.vision_lr=1e-3"]).train.vision_lr == 1e-3
    assert load_params(write(tmp_path, "frames: {media_url: 's3://5e3'}")).frames.media_url == "s3://5e3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: {lrr: 1.0}",
            "train.lrr: unknown parameter; did you mean train.lr? Known here: batch_size, accumulate, lr,",
        ),
        ("trian: {}", "trian: unknown parameter; did you mean train? Known here: tasks_run, pretrain_run, seed,"),
        ("tasks_run: [retreival]", "tasks_run.0 = 'retreival': expected 'retrieval'"),
        ("tasks_run: [pretrain]", "tasks_run.0 = 'pretrain': expected 'retrieval'"),
        ("train: {epochs: 3}", "train.epochs: unknown parameter; did you mean tasks.retrieval.epochs?"),
        ("train: {lr: 5}", "train.lr = 5: expected less than or equal to 1 (peak learning rate"),
        ("train: {batch_size: many}", "train.batch_size = 'many': expected a valid integer"),
        ("train: {batch_size: 2.5}", "train.batch_size = 2.5: expected a valid integer"),
        ("train: {lr: '1e-3'}", "YAML reads 1e-3 as text, write 0.001"),
        ("train: 3", "train = 3: expected a valid dictionary"),
        ("model: {preset: huge}", "model.preset = 'huge': expected 'tiny' or 'base'"),
        ("ingest: {max_quarantined_fraction: -0.1}", "ingest.max_quarantined_fraction = -0.1: expected greater than"),
        ("model: {image_size: 448}", "frames.size = 112 is smaller than the model's image_size = 448"),
        ("model: {preset: base}", "set frames.size to 448 or more"),
        (
            "validate: {severity: {split_by_loks: warn}}",
            "validate.severity.split_by_loks: unknown parameter; did you mean validate.severity.split_by_look?",
        ),
        ("validate: {severity: {drift: stop}}", "validate.severity.drift = 'stop': expected 'fail' or 'warn'"),
        ("- a\n- b", "expected sections such as `train:`, found list"),
        ("train: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_names_the_field_the_value_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ClipBertError) as error:
        load_params(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match=r"2 wrong parameter\(s\)"):
        load_params(write(tmp_path, "train: {lr: 5, batch_size: 0}"))


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match=r"no such parameter file. Run the command in the project's folder"):
        load_params(tmp_path / "params.yaml")


def test_overrides_are_typed_and_checked_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {lr: 0.1}")
    assert load_params(path, ["train.lr=0.5", "tasks.open_qa.epochs=3"]).train.lr == 0.5
    with pytest.raises(ClipBertError, match=r"train\.lr = 7"):
        load_params(path, ["train.lr=7"])
    with pytest.raises(ClipBertError, match=r"--set train\.lr: expected KEY=VALUE"):
        load_params(path, ["train.lr"])
    with pytest.raises(ClipBertError, match=r"seed is a value, not a section"):
        load_params(write(tmp_path, "seed: 1"), ["seed.deep=1"])


def test_every_parameter_is_explained_by_its_path() -> None:
    rows = {key: meaning for key, _, meaning in explain(Params())}
    assert "peak learning rate" in rows["train.lr"]
    assert "seconds" in rows["ingest.timeout_s"]
    assert rows.keys() == Params().flat().keys()


def test_an_unknown_task_names_the_known_ones() -> None:
    assert check_task("retrieval") == "retrieval"
    with pytest.raises(ClipBertError, match=r"retreival: no such task; .* Did you mean retrieval\?"):
        check_task("retreival")
