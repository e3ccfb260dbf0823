"""Reader of the canonical annotation files below data/: one JSON object per line, checked key by key."""

import difflib
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from clipbert.errors import ClipBertError

SPLITS = ("train", "val", "test")
MAX_ERRORS = 10
MAX_LINE_BYTES = 16 * 2**20
MAX_SECONDS = 1e9
SHOWN = 60
NO_SPLIT = ""  # of a line without a split, where that is allowed


@dataclass(frozen=True, slots=True)
class Text:
    """Valid line of an annotation file, normalized: a row of the texts table, with its file and line."""

    id: str
    kind: str
    media: str
    text: str
    split: str
    file: Path
    line: int
    answer: str | None = None
    options: list[str] | None = None
    answer_index: int | None = None
    answer_type: str | None = None
    answers: list[str] | None = None
    answer_scores: list[float] | None = None
    start_s: float | None = None
    end_s: float | None = None

    @property
    def has_segment(self) -> bool:
        """Whether the text is about a part of its media."""
        return self.start_s is not None or self.end_s is not None


@dataclass(frozen=True)
class AnnotationFile:
    """Format of one annotation file: the kind of its texts, the key of the text, the other keys."""

    name: str
    kind: str
    text_key: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


SEGMENT = ("start_s", "end_s")
FILES = (
    AnnotationFile("captions.jsonl", "caption", "text", ("id", "media", "text", "split"), SEGMENT),
    AnnotationFile(
        "open_qa.jsonl",
        "open_qa",
        "question",
        ("id", "media", "question", "answer", "split"),
        ("answer_type", "answers", *SEGMENT),
    ),
    AnnotationFile(
        "multiple_choice.jsonl",
        "multiple_choice",
        "question",
        ("id", "media", "question", "options", "answer", "split"),
        ("answer_type", *SEGMENT),
    ),
)


class LineError(Exception):
    """Error in one line."""


class ErrorList:
    """Collector of line errors, so that a user fixes them together; raises at the tenth."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def add(self, message: str) -> None:
        """Keep a message.

        Raises:
            ClipBertError: it is the tenth.
        """
        self._messages.append(message)
        if len(self._messages) >= MAX_ERRORS:
            self._fail(f"{MAX_ERRORS} wrong annotation lines (there may be more):")

    def raise_any(self) -> None:
        """Raise a ClipBertError that lists the messages, if there are any."""
        if self._messages:
            count = len(self._messages)
            self._fail(f"{count} wrong annotation line{'s' if count > 1 else ''}:")

    def _fail(self, title: str) -> None:
        lines = "\n".join(f"  {message}" for message in self._messages)
        raise ClipBertError(f"{title}\n{lines}\nMend them and run the command again; nothing was written.")


def annotation_files(data: Path) -> list[tuple[AnnotationFile, Path]]:
    """Return the annotation files that exist, in a fixed order.

    Raises:
        ClipBertError: there is none.
    """
    found = [(file, data / file.name) for file in FILES if (data / file.name).is_file()]
    if not found:
        names = ", ".join(file.name for file in FILES)
        others = sorted(path.name for path in data.iterdir() if path.suffix in {".json", ".jsonl", ".csv", ".txt"})
        hint = f" There is {', '.join(others[:5])}: rename or convert it." if others else ""
        raise ClipBertError(f"{data}: no annotation file; expected at least one of {names}.{hint}")
    return found


def stream_texts(data: Path, on_error: Callable[[str], None]) -> Iterator[Text]:
    """Stream every valid text of every annotation file.

    Args:
        on_error: called with "FILE:LINE: what is wrong" for a line that is left out; it may raise.

    Raises:
        ClipBertError: there is no annotation file, or one cannot be opened.
    """
    for file, path in annotation_files(data):
        first_lines: dict[str, int] = {}
        for number, raw in read_lines(path):
            try:
                text = parse_line(raw, file, path, number)
                if text is None:
                    continue
                first = first_lines.setdefault(text.id, number)
                if first != number:
                    raise LineError(f"id {_show(text.id)} was used before, on line {first}; ids are unique in a file")
            except LineError as error:
                on_error(f"{path}:{number}: {error}")
                continue
            yield text


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers from 1, each cut after MAX_LINE_BYTES + 1 bytes.

    Raises:
        ClipBertError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                yield number, raw
                while len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise ClipBertError(f"{path}: cannot be read ({error.strerror}).") from error


def parse_line(raw: bytes, file: AnnotationFile, path: Path, number: int, split_required: bool = True) -> Text | None:
    """Return the text in a line of an annotation file; None for an empty line.

    Args:
        split_required: otherwise a line may have no `split`, and the text then has the split "".

    Raises:
        LineError: the line is wrong; the message names the key.
    """
    value = parse_object(raw, file, number)
    if value is None:
        return None
    no_split = not split_required and value.get("split") is None
    if no_split:
        value = value | {"split": NO_SPLIT}
    _check_keys(value, file)
    return Text(
        id=_string(value, "id"),
        kind=file.kind,
        media=_media(value),
        text=_string(value, file.text_key),
        split=NO_SPLIT if no_split else _split(value),
        file=path,
        line=number,
        **_answer(value, file.kind),
        **_segment(value),
    )


def parse_object(raw: bytes, file: AnnotationFile, number: int) -> dict[str, Any] | None:
    """Return the JSON object in a line of an annotation file, with unchecked keys; None for an empty line.

    Raises:
        LineError: the line is not a JSON object.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise LineError(f"longer than {MAX_LINE_BYTES // 2**20} MiB; expected one JSON object a line")
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise LineError(
            f"not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1}); save the file as UTF-8"
        ) from None
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise LineError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise LineError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise LineError(f"expected a JSON object such as {{{', '.join(file.required)}}}, found {_name(value)}")
    return value


def _check_keys(value: dict[str, Any], file: AnnotationFile) -> None:
    known = (*file.required, *file.optional)
    for key in value:
        if key not in known:
            absent = [name for name in known if name not in value]
            nearest = difflib.get_close_matches(key, absent, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else "."
            raise LineError(f"unknown key {_show(key)}{hint} Known: {', '.join(known)}.")
    missing = [key for key in file.required if key not in value]
    if missing:
        raise LineError(f"missing {', '.join(missing)}; every line has {', '.join(file.required)}")


def _string(value: dict[str, Any], key: str) -> str:
    return _clean(value[key], key)


def _clean(value: Any, name: str) -> str:
    """Return a non-empty string in Unicode's composed form (NFC), with white space collapsed."""
    if not isinstance(value, str):
        raise LineError(f"{name} is {_show(value)} ({_name(value)}); expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise LineError(f"{name} holds half of a surrogate pair; write the character itself") from None
    cleaned = " ".join(value.split())
    if name != "id":  # ids are only compared, so they stay as they are
        cleaned = unicodedata.normalize("NFC", cleaned)
    if not cleaned:
        raise LineError(f"{name} is empty")
    return cleaned


def _media(value: dict[str, Any]) -> str:
    """Return a path below data/, unchanged except for doubled slashes and dots."""
    _clean(value["media"], "media")
    media: str = value["media"]
    path = PurePosixPath(media)
    if path.is_absolute() or PureWindowsPath(media).is_absolute():
        raise LineError(f"media {_show(media)} is an absolute path; expected a path below data/, as videos/a.mp4")
    if ".." in path.parts or ".." in PureWindowsPath(media).parts:
        raise LineError(f"media {_show(media)} leads out of data/ with '..'; expected a path below data/")
    return path.as_posix()


def _split(value: dict[str, Any]) -> str:
    split = value["split"]
    if split not in SPLITS:
        raise LineError(f"split is {_show(split)}; expected one of {', '.join(SPLITS)}")
    return str(split)


def _segment(value: dict[str, Any]) -> dict[str, Any]:
    """Return `start_s` and `end_s`; either may be missing or null."""
    found: dict[str, float | None] = {}
    for name in SEGMENT:
        seconds = value.get(name)
        if seconds is None:
            found[name] = None
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise LineError(f"{name} is {_show(seconds)} ({_name(seconds)}); expected seconds from the start")
        if not 0 <= seconds < MAX_SECONDS:  # NaN and Infinity, which Python's JSON reader accepts, fail here too
            raise LineError(f"{name} is {_show(seconds)}; expected seconds from the start of the video, 0 or more")
        found[name] = abs(float(seconds))
    start, end = found["start_s"] or 0.0, found["end_s"]
    if end is not None and end <= start:
        raise LineError(
            f"end_s is {_show(value['end_s'])}, but start_s is {_show(value.get('start_s', 0))}; expected a segment "
            "that ends after it starts. Leave out end_s for the rest of the video."
        )
    return found


def _answer(value: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the fields of a Text that only questions have."""
    if kind == "caption":
        return {}
    answer_type = _string(value, "answer_type") if value.get("answer_type") is not None else None
    if kind == "open_qa":
        answer = _string(value, "answer")
        return {"answer": answer, "answer_type": answer_type, **_soft_answers(value.get("answers"), answer)}
    options, index = value["options"], value["answer"]
    if not isinstance(options, list):
        raise LineError(f"options is {_show(options)} ({_name(options)}); expected a list of strings")
    if len(options) < 2:
        raise LineError(f"options has {len(options)} entries; expected at least 2")
    cleaned = [_clean(option, f"options[{position}]") for position, option in enumerate(options)]
    if not isinstance(index, int) or isinstance(index, bool):
        raise LineError(f"answer is {_show(index)} ({_name(index)}); expected the position of the right option, from 0")
    if not 0 <= index < len(options):
        raise LineError(f"answer is {index}, but there are {len(options)} options; expected 0 to {len(options) - 1}")
    return {"options": cleaned, "answer_index": index, "answer_type": answer_type}


def _soft_answers(answers: Any, answer: str) -> dict[str, Any]:
    """Return several right answers with their scores, as {"yes": 1.0, "no": 0.3}; `answer` is one of the best."""
    if answers is None:
        return {}
    if not isinstance(answers, dict):
        raise LineError(f'answers is {_show(answers)} ({_name(answers)}); expected scores such as {{"yes": 1.0}}')
    scores: dict[str, float] = {}
    for key, score in answers.items():
        cleaned = _clean(key, "a key of answers")
        if cleaned in scores:
            raise LineError(f"answers has {_show(cleaned)} twice")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise LineError(f"answers[{_show(cleaned)}] is {_show(score)} ({_name(score)}); expected a number")
        if not 0 < score <= 1:
            raise LineError(f"answers[{_show(cleaned)}] is {_show(score)}; expected more than 0 and at most 1")
        scores[cleaned] = float(score)
    if answer not in scores:
        raise LineError(f"answer is {_show(answer)}, which is not in answers: {_show(list(scores))}")
    best = max(scores.values())
    if scores[answer] < best:
        names = [name for name, score in scores.items() if score == best]
        raise LineError(f"answer is {_show(answer)}, but the best of answers is {_show(names[0])}")
    return {"answers": list(scores), "answer_scores": list(scores.values())}


def _name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _show(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=True)
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."
