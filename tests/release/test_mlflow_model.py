"""What a served model accepts, refuses and answers; tests/release/test_one_score.py has the scores."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from small_releases import save_served_model

from clipbert import pipeline
from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.release.media_access import MediaAccess
from clipbert.release.mlflow_model import max_rows_from_environment

pytestmark = pytest.mark.slow  # the pool that decodes files starts processes

PARAMS = Params.model_validate({"evaluate": {"clips": 2, "batch_size": 2}, "frames": {"max_frames": 8}})
OUTSIDE = "is outside the folders that this server may read"


@pytest.fixture
def roots(tmp_path: Path, tiny_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only readable folder, with a video and an image, next to a video outside of it."""
    media = tmp_path / "media"
    tiny_video(media / "a.mp4")
    tiny_video(media / "b.mp4", seed=1)
    tiny_video(tmp_path / "private" / "secret.mp4", seed=2)
    Image.new("RGB", (48, 32), (200, 30, 20)).save(media / "a.png")
    monkeypatch.setenv("CLIPBERT_MEDIA_ROOTS", str(media))
    return media


@pytest.fixture(scope="session")
def saved(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """saved(task): the folder of an MLflow model, as it is registered."""
    made: dict[str, Path] = {}

    def save(task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp("served") / task
            save_served_model(made[task], task, make_model(task), PARAMS)
        return made[task]

    return save


@pytest.fixture
def served(saved: Callable[[str], Path], roots: Path) -> Callable[[str], Any]:
    """served(task): the model as MLflow loads it."""
    return lambda task: mlflow.pyfunc.load_model(str(saved(task)))


def ask(model: Any, rows: list[dict[str, Any]], **params: Any) -> list[dict[str, Any]]:
    """The answers to rows, as dictionaries."""
    return list(model.predict(pd.DataFrame(rows), params=params or None).to_dict("records"))


def test_one_bad_row_does_not_fail_the_others(served: Callable[[str], Any], roots: Path) -> None:
    (roots / "text.mp4").write_text("no video")
    question = "what color is it?"
    rows = [
        {"video": "a.mp4", "question": question},
        {"video": "gone.mp4", "question": question},
        {"video": "a.mp4", "question": " "},
        {"video": "text.mp4", "question": question},
        {"video": None, "question": question},
        {"video": "b.mp4", "question": 5},
        {"video": "a.mp4", "question": "\ud800"},
        {"video": "b.mp4", "question": float("nan")},
        {"video": {"path": "a.mp4"}, "question": question},
        {"video": str(roots / "a.mp4"), "question": question},
    ]
    answers = ask(served("open_qa"), rows)
    errors = [answer["error"] for answer in answers]
    assert [number for number, error in enumerate(errors) if error is None] == [0, 9]
    assert all(answers[number]["answer"] in ("red", "blue", "two") for number in (0, 9))
    assert answers[0]["confidence"] == answers[9]["confidence"]
    assert all(answers[number][name] is None for number in range(1, 9) for name in answers[0] if name != "error")
    expected = [
        "row 1: video 'gone.mp4' is not found: expected a file below the server's media folders",
        "row 2: question is ' ': expected a non-empty text.",
        "row 3: video 'text.mp4': cannot be decoded",
        "row 4: video None is not a path",
        "row 5: question is 5: expected a non-empty text",
        "row 6: question is '\\ud800': it contains half of a surrogate pair",
        "row 7: question is nan: expected a non-empty text",
        "row 8: video {'path': 'a.mp4'} is not a path",
    ]
    for error, start in zip(errors[1:9], expected, strict=True):
        assert error.startswith(start)
        assert str(roots) not in error
        assert "Traceback" not in error


def test_only_files_below_the_roots_are_opened(
    served: Callable[[str], Any], roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "private" / "secret.mp4"
    (roots / "link.mp4").symlink_to(secret)
    (roots / "links").symlink_to(secret.parent)
    (roots / "inside.mp4").symlink_to(roots / "a.mp4")
    (roots / "loop.mp4").symlink_to(roots / "loop.mp4")
    (roots / "folder.mp4").mkdir()
    os.mkfifo(roots / "pipe.mp4")
    model = served("captioning")
    outside = ["../private/secret.mp4", str(secret), "link.mp4", "links/secret.mp4", "/dev/stdin", "/dev/zero"]
    outside += ["/proc/self/environ", "/proc/self/cwd/a.mp4", "/etc/passwd", f"{roots}/../private/secret.mp4", "/none"]
    named = {"folder.mp4": "is a folder", "pipe.mp4": "is not a regular file", "loop.mp4": "is not found"}
    named |= {"a\0.mp4": "is not found", "a" * 5000: "is not found", "a.mp4/b": "is not found"}
    named |= {"https://a/b.mp4": "is a URL", "file:///etc/passwd": "is a URL", "concat:a.mp4|b.mp4": "is not found"}
    answers = ask(model, [{"video": name} for name in [*outside, *named, "inside.mp4", "a.mp4"]])
    for answer in answers[: len(outside)]:
        assert OUTSIDE in answer["error"]
    for answer, problem in zip(answers[len(outside) :], named.values(), strict=False):
        assert problem in answer["error"]
    assert answers[-1]["error"] is None
    assert answers[-2]["caption"] == answers[-1]["caption"]
    # a path relative to the current folder, as the documentation's examples are
    monkeypatch.chdir(tmp_path)
    answers = ask(model, [{"video": "media/a.mp4"}, {"video": "private/secret.mp4"}])
    assert [answer["error"] is None for answer in answers] == [True, False]


def test_the_default_root_is_the_projects_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPBERT_MEDIA_ROOTS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"x")
    for access in (MediaAccess.from_environment(), MediaAccess(())):
        with pytest.raises(ClipBertError, match=OUTSIDE):
            access.find("a.mp4")
    (tmp_path / "data" / "videos").mkdir(parents=True)
    (tmp_path / "data" / "videos" / "b.mp4").write_bytes(b"x")
    access = MediaAccess.from_environment()
    expected = tmp_path / "data" / "videos" / "b.mp4"
    assert access.find("videos/b.mp4") == access.find("data/videos/b.mp4") == access.find(str(expected)) == expected
    for path in ("a.mp4", "../a.mp4", str(tmp_path / "a.mp4")):
        with pytest.raises(ClipBertError, match=f"{OUTSIDE}|is not found"):
            access.find(path)
    monkeypatch.setenv("CLIPBERT_MEDIA_ROOTS", "")
    with pytest.raises(ClipBertError, match=OUTSIDE):
        MediaAccess.from_environment().find("data/videos/b.mp4")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CLIPBERT_MEDIA_ROOTS", "data", "CLIPBERT_MEDIA_ROOTS contains 'data': expected absolute paths"),
        ("CLIPBERT_MAX_UPLOAD_MB", "big", "CLIPBERT_MAX_UPLOAD_MB is 'big': expected a number of megabytes above 0"),
        ("CLIPBERT_MAX_UPLOAD_MB", "-1", "CLIPBERT_MAX_UPLOAD_MB is '-1': expected a number"),
        ("CLIPBERT_MAX_UPLOAD_MB", "nan", "CLIPBERT_MAX_UPLOAD_MB is 'nan': expected a number"),
    ],
)
def test_a_wrong_setting_of_the_server_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ClipBertError, match=message):
        MediaAccess.from_environment()


def test_media_may_come_inside_the_request(
    saved: Callable[[str], Path], roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = base64.b64encode((roots / "a.mp4").read_bytes()).decode()
    monkeypatch.setenv("CLIPBERT_MAX_UPLOAD_MB", "0.01")
    model = mlflow.pyfunc.load_model(str(saved("captioning")))
    sent = [f"data:video/mp4;base64,{content}", "a.mp4", f"data:;base64,{'A' * 20_000}", "data:;base64,***"]
    sent += ["data:;base64,", "data:text/plain,hello", "data:;base64,AAAA", "data:"]
    answers = ask(model, [{"video": video} for video in sent])
    assert answers[0] == answers[1]
    assert answers[0]["error"] is None
    problems = ["has 0.0 MB: expected at most 0.01 MB", "is not base64", "is empty", "not a data URI with base64"]
    problems += ["<3 bytes>: cannot be decoded", "not a data URI with base64"]
    for answer, problem in zip(answers[2:], problems, strict=True):
        assert problem in answer["error"]


def test_parameters_are_honored(served: Callable[[str], Any], make_model: Callable[..., Path], roots: Path) -> None:
    question = "what color is it?"
    row = [{"video": "a.mp4", "question": question}]
    expected = pipeline("open_qa", make_model("open_qa"), frames=PARAMS.frames, clips=5)(roots / "a.mp4", question)
    model = served("open_qa")
    (answer,) = ask(model, row, clips=5, top_k=2)
    assert answer["top_answers"] == [best["answer"] for best in expected[:2]]
    assert answer["top_confidences"] == pytest.approx([best["score"] for best in expected[:2]], abs=1e-5)
    assert len(ask(model, row)[0]["top_answers"]) == 3  # of the model's three
    defaults = {param.name: param.default for param in model.metadata.get_params_schema().params}
    assert defaults == {"clips": 2, "top_k": 5}

    search = {"beams": 2, "max_length": 6, "length_penalty": 0.5, "no_repeat_ngram": 2}
    describe = pipeline("captioning", make_model("captioning"), frames=PARAMS.frames, clips=2)
    (caption,) = ask(served("captioning"), [{"video": "a.mp4"}], **search)
    (expected_caption,) = describe(roots / "a.mp4", **search)
    assert caption["caption"] == expected_caption["caption"]
    assert caption["score"] == pytest.approx(expected_caption["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("open_qa", {"clipz": 3}, r"params\.clipz: unknown parameter; expected some of clips, top_k"),
        ("open_qa", {"beams": 3}, r"params\.beams: unknown parameter; expected some of clips, top_k"),
        ("open_qa", {"clips": 0}, r"params\.clips is 0: expected a number from 1 to 64"),
        ("open_qa", {"clips": 65}, r"params\.clips is 65: expected a number from 1 to 64"),
        ("open_qa", {"top_k": -1}, r"params\.top_k is -1: expected a number from 1 to 10000"),
        ("open_qa", {"clips": 2.5}, "Can not safely convert"),
        ("open_qa", {"clips": "3"}, "Can not safely convert"),
        ("captioning", {"top_k": 3}, r"params\.top_k: unknown parameter; expected some of clips, beams, max_length"),
        ("captioning", {"length_penalty": float("nan")}, r"params\.length_penalty is nan: expected a number"),
        ("captioning", {"max_length": 500}, "max_length is 500: expected at most 128"),
    ],
)
def test_a_wrong_parameter_is_refused(
    served: Callable[[str], Any], task: str, params: dict[str, Any], message: str
) -> None:
    row = {"video": "a.mp4"} | ({} if task == "captioning" else {"question": "what color is it?"})
    with pytest.raises(MlflowException, match=message) as refused:
        ask(served(task), [row], **params)
    assert refused.value.get_http_status_code() == 400


def test_a_request_with_too_many_rows_is_refused(
    saved: Callable[[str], Path], roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"video": "a.mp4", "text": f"a red square {number}"} for number in range(4)]
    monkeypatch.setenv("CLIPBERT_MAX_ROWS", "3")
    model = mlflow.pyfunc.load_model(str(saved("retrieval")))
    assert len(ask(model, rows[:3])) == 3
    columns = pd.DataFrame({name: [np.array([row[name] for row in rows])] for name in rows[0]})
    for asked in (pd.DataFrame(rows), columns):
        with pytest.raises(MlflowException, match="has 4 rows: expected at most 3, ") as refused:
            model.predict(asked)
        assert "CLIPBERT_MAX_ROWS" in str(refused.value)
        assert refused.value.get_http_status_code() == 400


def test_a_request_holds_at_most_1000_rows_by_default(served: Callable[[str], Any]) -> None:
    with pytest.raises(MlflowException, match="has 1001 rows: expected at most 1000"):
        ask(served("captioning"), [{"video": "gone.mp4"}] * 1001)


@pytest.mark.parametrize("value", ["0", "-5", "many", "1e3", "", "9" * 5000])
def test_a_wrong_row_limit_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPBERT_MAX_ROWS", value)
    with pytest.raises(ClipBertError, match=r"CLIPBERT_MAX_ROWS is '.*': expected an integer above 0"):
        max_rows_from_environment()


def test_options_are_a_list_or_the_json_of_one(served: Callable[[str], Any]) -> None:
    question, options = "what color is it?", ["red", "blue", "a square"]
    given = [options, json.dumps(options), np.array(options, object), [], "red", ["red", None], None, ["a"] * 1001]
    rows = [{"video": "a.mp4", "question": question, "options": some} for some in given]
    answers = ask(served("multiple_choice"), rows)
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["answer"] == options[answers[0]["option"]]
    assert sum(answers[0]["option_confidences"]) == pytest.approx(1, abs=1e-5)
    assert answers[0]["confidence"] == max(answers[0]["option_confidences"])
    for answer in (*answers[3:5], *answers[6:]):
        assert "expected a list of 1 to 1000 texts" in answer["error"]
    assert answers[5]["error"] == "row 5: options[1] is None: expected a non-empty text."


def test_rows_keep_their_index_and_a_table_without_rows_its_columns(served: Callable[[str], Any]) -> None:
    asked = pd.DataFrame({"video": ["a.mp4", "b.mp4", "a.mp4"], "text": ["a red square"] * 3}, index=[5, 1, 5])
    model = served("retrieval")
    answers = model.predict(asked)
    assert list(answers.index) == [5, 1, 5]
    assert list(answers.columns) == ["score", "error"]
    assert answers["score"].dtype == np.float64
    assert answers["score"].iloc[0] == answers["score"].iloc[2] != answers["score"].iloc[1]
    nothing = model.predict(asked.iloc[:0])
    assert list(nothing.columns) == ["score", "error"]
    assert len(nothing) == 0


def test_columns_may_come_as_lists(served: Callable[[str], Any]) -> None:
    """As MLflow hands over the formats `inputs` and `instances`."""
    texts = ["a red square", "a blue circle"]
    model = served("retrieval")
    columns = pd.DataFrame({"video": [np.array(["a.mp4", "b.mp4"])], "text": [np.array(texts)]})
    rows = pd.DataFrame({"video": ["a.mp4", "b.mp4"], "text": texts})
    assert model.predict(columns)["score"].tolist() == model.predict(rows)["score"].tolist()
    columns["text"] = [np.array(texts[:1])]
    with pytest.raises(MlflowException, match=r"the columns have the lengths \{'video': 2, 'text': 1\}"):
        model.predict(columns)


def test_a_row_may_be_about_a_segment(
    served: Callable[[str], Any], make_model: Callable[..., Path], roots: Path
) -> None:
    text = "a red square"
    given = [(None, None), (0.0, 1.0), (1.0, 2.0), (1.0, None), (None, 1.0), (float("nan"), float("nan"))]
    times = [{"start_s": start, "end_s": end} for start, end in given]
    rows = [{"video": "a.mp4", "text": text, **some} for some in times]
    answers = ask(served("retrieval"), rows)
    assert [answer["error"] for answer in answers] == [None] * 6
    scores = [answer["score"] for answer in answers]
    search = pipeline("retrieval", make_model("retrieval"), frames=PARAMS.frames, clips=2)
    videos = [{"video": roots / "a.mp4", **some} for some in times[:5]]
    expected = {row["index"]: row["score"] for row in search(text, videos)}
    assert scores[:5] == pytest.approx([expected[number] for number in range(5)], abs=1e-5)
    assert scores[5] == scores[0]
    assert len({round(score, 5) for score in scores[:3]}) == 3
    assert (scores[4], scores[3]) == pytest.approx((scores[1], scores[2]), abs=1e-5)


def test_a_wrong_segment_fails_its_row_only(served: Callable[[str], Any]) -> None:
    problems = {
        (-1.0, None): "start_s is -1.0: expected seconds from the start of the video, 0 or more.",
        (None, float("inf")): "end_s is inf: expected seconds",
        (2.0, 1.0): "end_s is 1.0 and start_s is 2.0: expected an end after the start.",
        (50.0, None): "video 'a.mp4': start_s is 50, but the video lasts 2.0 s: expected a segment inside it.",
        (0.0, 99.0): "video 'a.mp4': end_s is 99, but the video lasts 2.0 s",
        (0.01, 0.02): "video 'a.mp4': no candidate frame lies in the segment 0.01 to 0.02 s",
    }
    rows = [{"video": "a.mp4", "text": "a square", "start_s": start, "end_s": end} for start, end in problems]
    rows.append({"video": "a.mp4", "text": "a square", "start_s": None, "end_s": None})
    answers = ask(served("retrieval"), rows)
    for number, (answer, problem) in enumerate(zip(answers, problems.values(), strict=False)):
        assert answer["error"].startswith(f"row {number}: {problem}")
        assert answer["score"] is None
    assert answers[-1]["error"] is None
    with pytest.raises(MlflowException, match="Incompatible input types for column start_s"):
        ask(served("retrieval"), [{"video": "a.mp4", "text": "a square", "start_s": "soon"}])
    assert [column.name for column in served("pretrain").metadata.get_input_schema()] == ["image", "text"]


def test_a_pretrained_model_tells_whether_text_and_image_match(served: Callable[[str], Any]) -> None:
    answers = ask(served("pretrain"), [{"image": "a.png", "text": text} for text in ("a red square", "how many")])
    assert [answer["error"] for answer in answers] == [None, None]
    assert all(0 < answer["score"] < 1 for answer in answers)
    assert answers[0]["score"] != answers[1]["score"]


def test_a_file_damaged_in_part_is_answered_with_a_warning_in_the_log(
    served: Callable[[str], Any], roots: Path, tiny_video: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    content = tiny_video(roots / "whole.mkv", frames=64, options={"g": "8"}).read_bytes()
    middle = len(content) // 2
    (roots / "cut.mkv").write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    (answer,) = ask(served("retrieval"), [{"video": "cut.mkv", "text": "a red square"}])
    assert answer["error"] is None
    assert any("cut.mkv: damaged: " in message for message in caplog.messages)
