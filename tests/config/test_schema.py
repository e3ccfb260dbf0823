"""params.yaml: accepted values, and messages about wrong ones."""

from pathlib import Path

import pytest
from params_file import write_params

from clipbert.config.help import explain
from clipbert.config.load import load_params
from clipbert.config.schema import Params
from clipbert.config.tasks import check_task
from clipbert.errors import ClipBertError

PROJECT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(f"{text}\n")
    return path


def test_the_committed_file_is_valid_and_says_the_defaults_of_the_code() -> None:
    params = load_params(PROJECT / "params.yaml")
    assert params.model.preset == "tiny"
    assert params.flat()["train.lr"] == params.train.lr


def test_a_complete_file_of_defaults_is_the_defaults(tmp_path: Path) -> None:
    assert load_params(write_params(tmp_path)) == Params()


def test_numbers_are_read_as_dvc_writes_them(tmp_path: Path) -> None:
    path = write_params(tmp_path)
    path.write_text(path.read_text().replace("lr: 0.0015", "lr: 5e-05"))
    assert load_params(path).train.lr == 5e-5
    assert load_params(path, ["train.vision_lr=1e-3"]).train.vision_lr == 1e-3
    assert load_params(path, ["frames.media_url='s3://5e3'"]).frames.media_url == "s3://5e3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: {lrr: 1.0}",
            "train.lrr: unknown parameter; did you mean train.lr? Known here: batch_size, gradient_accumulation_steps,",
        ),
        (
            "train: {accumulate: 2}",
            "train.accumulate: unknown parameter; did you mean train.gradient_accumulation_steps?",
        ),
        ("train: {clip_norm: 1.0}", "train.clip_norm: unknown parameter; did you mean train.max_grad_norm?"),
        ("train: {workers: 2}", "train.workers: unknown parameter; did you mean train.num_workers?"),
        ("evaluate: {rerank: 10}", "evaluate.rerank: unknown parameter; did you mean evaluate.rerank_top_k?"),
        ("trian: {}", "trian: unknown parameter; did you mean train? Known here: tasks_run, pretrain_run, seed,"),
        ("tasks_run: [retreival]", "tasks_run.0 = 'retreival': expected 'retrieval'"),
        ("tasks_run: [pretrain]", "tasks_run.0 = 'pretrain': expected 'retrieval'"),
        ("train: {epochs: 3}", "train.epochs: unknown parameter; did you mean tasks.retrieval.epochs?"),
        ("train: {lr: 5}", "train.lr = 5: expected less than or equal to 1 (peak learning rate"),
        ("train: {batch_size: many}", "train.batch_size = 'many': expected a valid integer"),
        ("train: {batch_size: 2.5}", "train.batch_size = 2.5: expected a valid integer"),
        ("train: {lr: '1e-3'}", "YAML reads 1e-3 as text, write 0.001"),
        ("train: 3", "train = 3: expected a valid dictionary"),
        ("model: {preset: huge}", "model.preset = 'huge': expected 'tiny', 'small' or 'base'"),
        ("ingest: {max_quarantined_fraction: -0.1}", "ingest.max_quarantined_fraction = -0.1: expected greater than"),
        ("model: {image_size: 448}", "frames.size = 112 is smaller than the model's image_size = 448"),
        ("model: {preset: base}", "set frames.size to 448 or more"),
        (
            "validate: {severity: {near_duplicats: warn}}",
            "validate.severity.near_duplicats: unknown parameter; did you mean validate.severity.near_duplicates?",
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
    with pytest.raises(ClipBertError, match=r"no such parameter file. Run the command in the project folder"):
        load_params(tmp_path / "params.yaml")


def test_overrides_are_typed_and_checked_like_the_file(tmp_path: Path) -> None:
    path = write_params(tmp_path, "train: {lr: 0.1}")
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


@pytest.mark.parametrize("size", range(0, 3600, 97))
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, size: int) -> None:
    whole = (PROJECT / "params.yaml").read_bytes()
    path = tmp_path / "params.yaml"
    path.write_bytes(whole[: min(size, len(whole) - 1)])
    with pytest.raises(ClipBertError, match=r"missing parameter|does not end with a newline|not valid YAML"):
        load_params(path)


def test_every_truncation_of_the_committed_file_is_noticed(tmp_path: Path) -> None:
    """A file cut in its last line at any byte is an error: 10000 must not become 1000."""
    whole = (PROJECT / "params.yaml").read_bytes()
    path = tmp_path / "params.yaml"
    for size in range(len(whole) - 60, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ClipBertError):
            load_params(path)


def test_missing_parameters_are_listed_with_their_defaults_to_paste(tmp_path: Path) -> None:
    path = write_params(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("  lr: 0.0015\n", "").replace("  clips: 2\n", ""))
    with pytest.raises(ClipBertError) as error:
        load_params(path)
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{path}: 2 missing parameter(s). Add them to their sections")
    assert lines[1:5] == ["  train:", "    lr: 0.0015", "  evaluate:", "    clips: 2"]
    assert lines[5].startswith(f"If the file was truncated, restore it: git checkout {path}.")
    assert load_params(path, ["train.lr=0.1", "evaluate.clips=4"]).train.lr == 0.1
    assert load_params(path, complete=False) == Params()


def test_a_section_without_content_lacks_everything(tmp_path: Path) -> None:
    path = write_params(tmp_path)
    path.write_text(path.read_text().partition("release:\n")[0] + "release:\n")
    with pytest.raises(ClipBertError, match=r"1 missing .*\n  release:\n    name: clipbert\n"):
        load_params(path)


def test_parameters_that_moved_to_the_promotion_policy_name_their_new_place(tmp_path: Path) -> None:
    path = write_params(tmp_path)
    path.write_text(path.read_text() + "  min_gain: 0.01\n")
    with pytest.raises(ClipBertError, match=r"release.min_gain: moved to mlflow/promotion.yaml as min_improvement"):
        load_params(path)


def test_a_key_that_occurs_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write_params(tmp_path)
    lines = path.read_text().splitlines()
    first = lines.index("  lr: 0.0015") + 1
    lines.insert(first + 1, "  lr: 0.1")
    path.write_text("\n".join(lines) + "\n")
    expected = f"lr occurs twice in one section, in line {first} and in line {first + 2}: remove one"
    with pytest.raises(ClipBertError, match=expected):
        load_params(path)
    path.write_text(f"{path.read_text().replace('  lr: 0.1', '')}train: {{}}\n")
    with pytest.raises(ClipBertError, match=r"train occurs twice in one section, in line \d+ and in line \d+"):
        load_params(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=7", "--set train.lr=7: train.lr = 7: expected less than or equal to 1"),
        ("train.lrr=1", "--set train.lrr=1: train.lrr: unknown parameter; did you mean train.lr?"),
        ("train=3", "--set train=3: train = 3: expected a valid dictionary"),
        ("tasks_run=[qa]", "--set tasks_run=[qa]: tasks_run.0 = 'qa': expected 'retrieval'"),
        ("frames.size=32", "--set frames.size=32: frames.size = 32 is smaller than the model's image_size = 96"),
        ("train.milestones=[0.5", "--set train.milestones=[0.5: the value is not valid YAML"),
        ("train.lr=", "--set train.lr=: train.lr = None: expected a valid number"),
        ("train..lr=1", "--set train..lr=1: expected KEY=VALUE"),
    ],
)
def test_a_mistake_in_an_override_is_blamed_on_it(tmp_path: Path, override: str, message: str) -> None:
    path = write_params(tmp_path)
    with pytest.raises(ClipBertError) as error:
        load_params(path, ["seed=3", override])
    assert str(error.value).startswith(message)
    assert str(path) not in str(error.value)
    assert "seed" not in str(error.value)


def test_mistakes_in_the_file_and_in_an_override_are_kept_apart(tmp_path: Path) -> None:
    path = write_params(tmp_path)
    path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 0"))
    with pytest.raises(ClipBertError) as error:
        load_params(path, ["train.lr=7"])
    first, second, third = str(error.value).splitlines()
    assert first.startswith("--set train.lr=7: train.lr = 7")
    assert second == f"{path}: 1 wrong parameter(s):"
    assert third.startswith("  train.batch_size = 0")
