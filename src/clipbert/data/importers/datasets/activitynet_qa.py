"""Importer of ActivityNet-QA (Yu et al., AAAI 2019): 10 questions about each of 5,800 videos of ActivityNet.

The answer vocabulary is the 1,000 most frequent training answers, as in the paper.
"""

from pathlib import Path

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.datasets.activitynet_captions import activitynet_aliases
from clipbert.data.importers.limits import HeldTexts
from clipbert.data.importers.readers import records, split_files
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError

PROTOCOL = Protocol(
    media={"train": 3_200, "val": 1_800, "test": 800},
    texts={"train": 32_000, "val": 18_000, "test": 8_000},
    answers=1_000,
)
TYPES = (
    "motion",
    "spatial relationship",
    "temporal relationship",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)
QUESTIONS = '{"video_name", "question", "question_id"} in *_q.json'
ANSWERS = '{"answer", "type": 0 to 8, "question_id"} in *_a.json'


@importer(
    "activitynet_qa",
    title="ActivityNet-QA",
    paper="Yu et al., AAAI 2019",
    about="ActivityNet-QA: open questions about long videos, 1,000 answers.",
    tasks=("open_qa",),
    annotations="train_q.json, train_a.json, the same for val and test",
    example="dataset/ videos/",
    published=PROTOCOL,
)
def import_activitynet_qa(annotations: Path, source: Source) -> ImportSummary:
    """Import ActivityNet-QA.

    Args:
        annotations: a folder with its files, or one *_q.json with its *_a.json in the same folder.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    files = split_files(annotations, ("*_q.json",), QUESTIONS)
    with importing(source, PROTOCOL, activitynet_aliases, PROTOCOL.answers) as made:
        for split, path in files.items():
            answers = _read_answers(path)
            for row in records(path, QUESTIONS):
                identity = row.text("question_id")
                if identity not in answers:
                    made.drop("a question without an answer")
                    continue
                answer, kind = answers[identity]
                name = row.text("video_name")
                made.question(f"activitynet-{identity}", name, row.text("question"), answer, split, kind)
    return made.summary


def _read_answers(questions: Path) -> dict[str, tuple[str, str]]:
    """Return {question id: (answer, type)} of the *_a.json that belongs to a *_q.json."""
    path = questions.with_name(questions.name.replace("_q.", "_a."))
    if path == questions or not path.is_file():
        raise ClipBertError(f"{path}: no such file; expected the answers to {questions.name} there: {ANSWERS}.")
    answers = {}
    held = HeldTexts(path)
    for row in records(path, ANSWERS):
        kind = row.integer("type")
        if not 0 <= kind < len(TYPES):
            raise row.error(f"type {kind}")
        answers[row.text("question_id")] = (held.hold(row.text("answer")), TYPES[kind])
    return answers
