"""Importer of MSRVTT-QA (Xu et al., ACM MM 2017): 243,680 questions about MSR-VTT, in its official splits.

The .jsonl files are those of ClipBERT's authors. The answer vocabulary is the 1,500 most frequent training answers
(ClipBERT, section 4.1; train_ans2label.json).
"""

from collections.abc import Mapping
from pathlib import Path

from clipbert.data.importers.base import Import, Source, importing
from clipbert.data.importers.readers import load_json, records, split_files
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError

VOCABULARY = 1_500
PROTOCOL = Protocol(
    media={"train": 6_513, "val": 497, "test": 2_990},
    texts={"train": 158_581, "val": 12_278, "test": 72_821},
    answers=VOCABULARY,
)
PATTERNS = ("*_qa.json", "*qa*.jsonl", "train.jsonl", "val.jsonl", "test.jsonl")
LAYOUT = '{"question", "answer", "video_id"}, with "answer_type" or without'
TYPES = ("what", "who", "how", "when", "where")


@importer(
    "msrvtt_qa",
    title="MSRVTT-QA",
    paper="Xu et al., ACM MM 2017",
    about="MSRVTT-QA: open questions about MSR-VTT, 1,500 answers.",
    tasks=("open_qa",),
    annotations="train_qa.json, val_qa.json, test_qa.json, or the same as .jsonl",
    example="MSRVTT-QA/ videos/ --vocabulary train_ans2label.json",
    published=PROTOCOL,
    options={"vocabulary": "The answers, as {answer: label}. Default: the most frequent training answers."},
)
def import_msrvtt_qa(annotations: Path, source: Source, vocabulary: Path | None = None) -> ImportSummary:
    """Import MSRVTT-QA.

    Args:
        annotations: a folder with its files, or one of them; the split is read from the name.
        vocabulary: the answers as {answer: label}; None: the most frequent training answers.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    files = split_files(annotations, PATTERNS, LAYOUT)
    answers = read_vocabulary(vocabulary) if vocabulary else PROTOCOL.answers
    with importing(source, PROTOCOL, vocabulary=answers) as made:
        for split, path in files.items():
            add_questions(made, path, split, f"{split}-")
    return made.summary


def add_questions(made: Import, path: Path, splits: str | Mapping[str, str], prefix: str = "") -> None:
    """Add the questions of a file; `splits` is one split or {video: split}; questions on other videos are dropped."""
    for number, row in enumerate(records(path, LAYOUT), start=1):
        name = row.text("video_id")
        name = f"video{name}" if name.isdigit() else name
        question = row.text("question")
        split = splits if isinstance(splits, str) else splits.get(name)
        if split is None:
            made.drop("a video that is not in the annotations")
            continue
        kind = row.text("answer_type") if "answer_type" in row.values else first_word(question, TYPES)
        made.question(f"question-{prefix}{number}", name, question, row.text("answer"), split, kind or None)


def first_word(question: str, kinds: tuple[str, ...]) -> str:
    """Return the kind of a question: its first word if that is one of `kinds`, else the first kind."""
    word = question.lower().split()[:1]
    return word[0] if word and word[0] in kinds else kinds[0]


def read_vocabulary(path: Path) -> frozenset[str]:
    """Return the answers of a file {answer: label} or [answer, ...].

    Raises:
        ClipBertError: the file is missing or has another layout.
    """
    layout = '{"answer": label, ...}'
    content = load_json(path, layout)
    if not isinstance(content, dict | list) or not content or not all(isinstance(entry, str) for entry in content):
        raise ClipBertError(f"{path}: not an answer vocabulary; expected {layout}.")
    return frozenset(content)
