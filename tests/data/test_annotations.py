"""Annotation lines: what is read, and what is said of a wrong line."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.annotations import MAX_LINE_BYTES, ErrorList, Text, stream_texts
from clipbert.errors import ClipBertError

CAPTION = {"id": "c0", "media": "videos/a.mp4", "text": "a red ball", "split": "train"}
QUESTION = {"id": "q0", "media": "videos/a.mp4", "question": "what colour?", "answer": "red", "split": "val"}
CHOICE = {
    "id": "m0",
    "media": "videos/a.mp4",
    "question": "which?",
    "options": ["a", "b"],
    "answer": 1,
    "split": "test",
}


def read(folder: Path) -> list[Text]:
    errors = ErrorList()
    texts = list(stream_texts(folder, errors.add))
    errors.raise_any()
    return texts


def message(folder: Path) -> str:
    with pytest.raises(ClipBertError) as caught:
        read(folder)
    return str(caught.value)


def write(folder: Path, name: str, *rows: dict[str, Any] | bytes) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / name).write_bytes(b"".join(line + b"\n" for line in lines))
    return folder / name


def test_all_three_files_in_a_fixed_order(tmp_path: Path) -> None:
    write(tmp_path, "multiple_choice.jsonl", {**CHOICE, "answer_type": "order"}, {**CHOICE, "id": "m1"})
    write(tmp_path, "open_qa.jsonl", {**QUESTION, "answer_type": "colour"})
    write(tmp_path, "captions.jsonl", CAPTION)
    caption, question, choice, plain = read(tmp_path)
    assert (caption.kind, caption.id, caption.media, caption.split) == ("caption", "c0", "videos/a.mp4", "train")
    assert (question.text, question.answer, question.answer_type) == ("what colour?", "red", "colour")
    assert (choice.options, choice.answer_index, choice.answer) == (["a", "b"], 1, None)
    assert (choice.answer_type, plain.answer_type) == ("order", None)


def test_segments_of_all_three_kinds(tmp_path: Path) -> None:
    write(tmp_path, "captions.jsonl", {**CAPTION, "start_s": 3, "end_s": 7.25}, {**CAPTION, "id": "c1"})
    write(tmp_path, "open_qa.jsonl", {**QUESTION, "start_s": 3})
    write(tmp_path, "multiple_choice.jsonl", {**CHOICE, "start_s": None, "end_s": 2})
    texts = read(tmp_path)
    assert [(text.start_s, text.end_s) for text in texts] == [(3.0, 7.25), (None, None), (3.0, None), (None, 2.0)]
    assert [text.has_segment for text in texts] == [True, False, True, True]


def test_white_space_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    first = b"\xef\xbb\xbf" + json.dumps({**CAPTION, "text": "  a\n red\tball "}).encode() + b"\r"
    write(tmp_path, "captions.jsonl", first, b"", {**CAPTION, "id": "c1", "media": "./videos//a.mp4"})
    texts = read(tmp_path)
    assert [text.text for text in texts] == ["a red ball", "a red ball"]
    assert [text.media for text in texts] == ["videos/a.mp4", "videos/a.mp4"]
    assert [text.line for text in texts] == [1, 3]


def test_one_id_in_two_files_is_fine(tmp_path: Path) -> None:
    write(tmp_path, "captions.jsonl", CAPTION)
    write(tmp_path, "open_qa.jsonl", {**QUESTION, "id": "c0"})
    assert len(read(tmp_path)) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b'{"id": "c0", "media" 1}', "not valid JSON: Expecting ':' delimiter at column 22"),
        (b'{"id": "\xe9t\xe9"}', "not UTF-8 (byte 0xe9 at position 9); save the file as UTF-8"),
        (b"[1, 2]", "expected a JSON object such as {id, media, text, split}, found a list"),
        ({**CAPTION, "txt": "x"}, 'unknown key "txt". Known: id, media, text, split, start_s, end_s.'),
        ({**CAPTION, "start": 3}, 'unknown key "start"; did you mean start_s?'),
        ({**CAPTION, "start_s": "3"}, 'start_s is "3" (a string); expected seconds from the start'),
        ({**CAPTION, "end_s": True}, "end_s is true (a boolean); expected seconds from the start"),
        ({**CAPTION, "start_s": -0.5}, "start_s is -0.5; expected seconds from the start of the video, 0 or more"),
        ({**CAPTION, "end_s": float("nan")}, "end_s is NaN; expected seconds from the start of the video, 0 or more"),
        ({**CAPTION, "end_s": 0}, "end_s is 0, but start_s is 0; expected a segment that ends after it starts"),
        ({**CAPTION, "start_s": 8, "end_s": 5.5}, "end_s is 5.5, but start_s is 8; expected a segment that ends after"),
        ({"id": "c0", "media": "a.mp4", "splits": "val", "text": "a"}, 'unknown key "splits"; did you mean split?'),
        ({"id": "c0", "media": "a.mp4"}, "missing text, split; every line has id, media, text, split"),
        ({**CAPTION, "id": 7}, "id is 7 (a number); expected a string"),
        ({**CAPTION, "text": None}, "text is null (null); expected a string"),
        ({**CAPTION, "text": ""}, "text is empty"),
        ({**CAPTION, "text": " \t\u00a0 "}, "text is empty"),
        ({**CAPTION, "text": "\ud800"}, "text holds half of a surrogate pair"),
        ({**CAPTION, "split": "dev"}, 'split is "dev"; expected one of train, val, test'),
        ({**CAPTION, "split": ["train"]}, 'split is ["train"]; expected one of train, val, test'),
        ({**CAPTION, "media": "/home/me/a.mp4"}, 'media "/home/me/a.mp4" is an absolute path'),
        ({**CAPTION, "media": "C:\\a.mp4"}, 'media "C:\\\\a.mp4" is an absolute path'),
        ({**CAPTION, "media": "videos/../../a.mp4"}, "leads out of data/ with '..'"),
    ],
)
def test_wrong_captions(tmp_path: Path, row: dict[str, Any] | bytes, said: str) -> None:
    path = write(tmp_path, "captions.jsonl", {**CAPTION, "id": "good"}, row)
    text = message(tmp_path)
    assert f"{path}:2: " in text
    assert said in text
    assert text.startswith("1 wrong annotation line:")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**CHOICE, "answer": 2}, "answer is 2, but there are 2 options; expected 0 to 1"),
        ({**CHOICE, "answer": -1}, "answer is -1, but there are 2 options"),
        ({**CHOICE, "answer": "a"}, 'answer is "a" (a string); expected the position of the right option, from 0'),
        ({**CHOICE, "answer": True}, "answer is true (a boolean)"),
        ({**CHOICE, "options": ["a"]}, "options has 1 entries; expected at least 2"),
        ({**CHOICE, "options": "ab"}, 'options is "ab" (a string); expected a list of strings'),
        ({**CHOICE, "options": ["a", " "]}, "options[1] is empty"),
        ({**CHOICE, "answer_type": 3}, "answer_type is 3 (a number); expected a string"),
        ({**CHOICE, "options": ["a", 5]}, "options[1] is 5 (a number); expected a string"),
    ],
)
def test_wrong_choices(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = write(tmp_path, "multiple_choice.jsonl", row)
    assert f"{path}:1: {said}" in message(tmp_path)


def test_question_without_an_answer(tmp_path: Path) -> None:
    path = write(tmp_path, "open_qa.jsonl", {**QUESTION, "answer": "  "})
    assert f"{path}:1: answer is empty" in message(tmp_path)


def test_soft_answers(tmp_path: Path) -> None:
    scored = {**QUESTION, "answer": " red ", "answers": {"blue": 0.3, "red": 1, " dark  red": 0.6}}
    write(tmp_path, "open_qa.jsonl", scored, {**QUESTION, "id": "q1"}, {**QUESTION, "id": "q2", "answers": None})
    first, second, third = read(tmp_path)
    assert (first.answer, first.answers, first.answer_scores) == ("red", ["blue", "red", "dark red"], [0.3, 1.0, 0.6])
    assert second.answers is second.answer_scores is third.answers is None


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["red"], 'answers is ["red"] (a list); expected scores such as {"yes": 1.0}'),
        ({}, 'answer is "red", which is not in answers: []'),
        ({"blue": 1.0}, 'answer is "red", which is not in answers: ["blue"]'),
        ({"red": 0.3, "blue": 1.0}, 'answer is "red", but the best of answers is "blue"'),
        ({"red": "1"}, 'answers["red"] is "1" (a string); expected a number'),
        ({"red": True}, 'answers["red"] is true (a boolean); expected a number'),
        ({"red": 0}, 'answers["red"] is 0; expected more than 0 and at most 1'),
        ({"red": 1.5}, 'answers["red"] is 1.5; expected more than 0 and at most 1'),
        ({"red": float("nan")}, 'answers["red"] is NaN; expected more than 0 and at most 1'),
        ({"red": 1, " red": 1}, 'answers has "red" twice'),
        ({"red": 1, " ": 1}, "a key of answers is empty"),
    ],
)
def test_wrong_soft_answers(tmp_path: Path, answers: Any, said: str) -> None:
    path = write(tmp_path, "open_qa.jsonl", {**QUESTION, "answers": answers})
    assert f"{path}:1: {said}" in message(tmp_path)


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "captions.jsonl", CAPTION, {**CAPTION, "id": "c1"}, CAPTION)
    assert f'{path}:3: id "c0" was used before, on line 1' in message(tmp_path)


def test_up_to_ten_errors_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "captions.jsonl", *[{**CAPTION, "id": str(i), "split": "x"} for i in range(4)])
    text = message(tmp_path)
    assert text.startswith("4 wrong annotation lines:")
    assert all(f"{path}:{line}: " in text for line in (1, 2, 3, 4))
    write(tmp_path, "captions.jsonl", *[{**CAPTION, "id": str(i), "split": "x"} for i in range(12)])
    text = message(tmp_path)
    assert text.startswith("10 wrong annotation lines (there may be more):")
    assert f"{path}:10: " in text
    assert f"{path}:11: " not in text


def test_line_without_end(tmp_path: Path) -> None:
    path = write(tmp_path, "captions.jsonl", b"x" * (3 * MAX_LINE_BYTES), {**CAPTION, "split": "x"})
    text = message(tmp_path)
    assert f"{path}:1: longer than 16 MiB; expected one JSON object a line" in text
    assert f"{path}:2: split is" in text


def test_huge_number_and_deep_nesting(tmp_path: Path) -> None:
    path = write(tmp_path, "captions.jsonl", b'{"id": ' + b"9" * 5000 + b"}", b"[" * 100_000)
    text = message(tmp_path)
    assert f"{path}:1: not valid JSON" in text
    assert f"{path}:2: not valid JSON" in text


def test_no_annotation_file(tmp_path: Path) -> None:
    (tmp_path / "caption.json").write_text("[]")
    text = message(tmp_path)
    assert "no annotation file; expected at least one of captions.jsonl, open_qa.jsonl, multiple_choice.jsonl" in text
    assert "There is caption.json: rename or convert it." in text
