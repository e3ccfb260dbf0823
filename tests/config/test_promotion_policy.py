"""Reading of mlflow/promotion.yaml: complete, typed, and with messages that name file, field, value and expectation."""

import hashlib
import re
from pathlib import Path

import pytest

from clipbert.config.promotion import POLICY, TaskPolicy, default_policy_text, load_policy
from clipbert.errors import ClipBertError

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = default_policy_text()


def write(root: Path, text: str) -> Path:
    (root / POLICY).parent.mkdir(exist_ok=True)
    (root / POLICY).write_text(text)
    return root


def test_the_project_has_a_valid_policy_with_every_default():
    policy = load_policy(REPOSITORY)
    assert policy.default == TaskPolicy()
    assert policy.of("retrieval").guards == {"r5": 2.0, "video_to_text_r1": 5.0}
    assert policy.of("open_qa").max_type_drop == 5.0
    assert policy.of("captioning") == policy.default


def test_a_task_changes_single_fields_and_replaces_its_guards(tmp_path):
    default = TEXT.replace("guards: {}", "guards: {r10: 1.0}").replace("max_model_mb: null", "max_model_mb: 50.0")
    own = "tasks:\n  retrieval:\n    guards: {r5: 2.0}\n    limits: {max_ms_per_item: 9.0}\n    approval: person\n"
    policy = load_policy(write(tmp_path, default.replace("tasks: {}\n", own)))
    found = policy.of("retrieval")
    assert (found.guards, found.approval, found.confidence) == ({"r5": 2.0}, "person", 0.95)
    assert (found.limits.max_ms_per_item, found.limits.max_model_mb) == (9.0, 50.0)
    assert policy.of("open_qa").guards == {"r10": 1.0}
    assert policy.sha256 == hashlib.sha256((tmp_path / POLICY).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("0.95", "95"), r"1 wrong field.*\n  default.confidence = 95: expected less than 1 \(level of"),
        (TEXT.replace("auto", "boss"), r"default.approval = 'boss': expected 'auto' or 'person'"),
        (TEXT.replace("min_seeds: 1", "min_seeds: many"), r"default.min_seeds = 'many': expected a valid integer"),
        (
            TEXT.replace("guards: {}", "guards: {r5: -1}"),
            r"default.guards.r5 = -1: expected greater than or equal to 0",
        ),
        (TEXT.replace("tasks: {}", "tasks: {retrieval: {tset: x}}"), r"tasks.retrieval.tset: unknown .* mean test\?"),
        (TEXT.replace("tasks: {}", "tasks: {retrieval: 3}"), r"tasks.retrieval = 3: expected fields of the policy"),
        (TEXT.replace("tasks: {}", "tasks: {videos: {}}"), r"tasks.videos: unknown task; expected one of retrieval, "),
        (TEXT.replace("tasks: {}", "task: {}"), r"task: unknown section; expected default and tasks"),
        (TEXT.replace("  min_seeds: 1\n", ""), r"1 missing field.*\n    min_seeds: 1\n.*git checkout mlflow/promotion"),
        (TEXT[:300], r"does not end with a newline; the file may be truncated.*git checkout"),
        ("- 1\n", "expected the sections default and tasks, found list"),
        (TEXT + "tasks: {}\n", "tasks occurs twice"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ClipBertError, match=rf"(?s)^{re.escape(str(POLICY))}: .*{message}"):
        load_policy(write(tmp_path, text))


def test_an_inherited_mistake_is_reported_once(tmp_path):
    text = TEXT.replace("0.95", "95").replace("tasks: {}", "tasks: {retrieval: {test: both}}")
    with pytest.raises(ClipBertError) as caught:
        load_policy(write(tmp_path, text))
    assert str(caught.value).count("95") == 1


def test_a_missing_file_names_how_to_write_it(tmp_path):
    with pytest.raises(ClipBertError, match=r"not found.*`clipbert policy --defaults > mlflow/promotion.yaml`"):
        load_policy(tmp_path)
