"""Importer of VQA 2.0 (Goyal et al., CVPR 2017): questions about COCO images, ten answers each.

train2014 is for training, val2014 for validation; the answers to test2015 are not public. Each answer carries its soft
score (`vqa_answers`). The vocabulary is the answers that are the most frequent answer of at least 9 questions of train
and val, 3,129 of them (bottom-up attention, LXMERT, ClipBERT).
"""

from collections import Counter
from pathlib import Path

from clipbert.data.importers.base import Import, Source, importing
from clipbert.data.importers.limits import HeldTexts
from clipbert.data.importers.readers import json_records, split_files
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.data.importers.vqa_answers import normalise, soft_scores
from clipbert.errors import ClipBertError

PROTOCOL = Protocol(media={"train": 82_783, "val": 40_504}, texts={"train": 443_757, "val": 214_354}, answers=3_129)
MIN_OCCURRENCES = 9
IMAGE_SETS = {"train": "train2014", "val": "val2014"}
ANNOTATIONS = (
    '{"annotations": [{"question_id", "image_id", "answer_type", "multiple_choice_answer", "answers": [{"answer"}]}]}'
)
QUESTIONS = '{"questions": [{"question_id", "image_id", "question"}]}'


@importer(
    "vqa2",
    title="VQA 2.0",
    paper="Goyal et al., CVPR 2017",
    about="VQA 2.0: open questions about images with soft scores, 3,129 answers.",
    tasks=("image_qa", "open_qa"),
    annotations="v2_OpenEnded_mscoco_train2014_questions.json, v2_mscoco_train2014_annotations.json, the same for "
    "val2014",
    example="vqa/ coco/ --hold-out test=0.05",
    media="images",
    published=PROTOCOL,
)
def import_vqa2(annotations: Path, source: Source) -> ImportSummary:
    """Import VQA 2.0, with one annotation and the texts of all questions of a split in memory at a time.

    Args:
        annotations: a folder with v2_mscoco_*_annotations.json and v2_OpenEnded_mscoco_*_questions.json.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    answers = split_files(annotations, ("v2_mscoco_*_annotations.json*",), ANNOTATIONS)
    folder = annotations if annotations.is_dir() else annotations.parent
    # By full name: test-dev2015, in the same folder, is a part of test2015.
    names = [f"v2_OpenEnded_mscoco_{images}_questions.json*" for images in (*IMAGE_SETS.values(), "test2015")]
    questions = split_files(folder, names, QUESTIONS)
    answers.pop("test", None)
    if absent := [split for split in answers if split not in questions]:
        raise ClipBertError(f"{folder}: no v2_OpenEnded_mscoco_{IMAGE_SETS[absent[0]]}_questions.json; expected one.")
    vocabulary = _vocabulary(answers)
    with importing(source, PROTOCOL, _aliases, vocabulary) as made:
        for split, path in answers.items():
            _add(made, path, questions[split], split)
        made.summary.notes.append(
            f"vocabulary: answers of at least {MIN_OCCURRENCES} questions in {' and '.join(answers)}: "
            f"{len(vocabulary)} (published: {PROTOCOL.answers}); set tasks.open_qa.max_answers={len(vocabulary)}"
        )
        if "test" in questions:
            made.summary.notes.append("the questions of test2015 have no public answers; they were left out")
    return made.summary


def _vocabulary(files: dict[str, Path]) -> frozenset[str]:
    counts: Counter[str] = Counter()
    for path in files.values():
        for row in json_records(path, ANNOTATIONS, "annotations"):
            counts[normalise(row.text("multiple_choice_answer"))] += 1
    return frozenset(answer for answer, count in counts.items() if answer and count >= MIN_OCCURRENCES)


def _add(made: Import, answers: Path, questions: Path, split: str) -> None:
    held = HeldTexts(questions)
    texts = {
        row.integer("question_id"): held.hold(row.text("question"))
        for row in json_records(questions, QUESTIONS, "questions")
    }
    for row in json_records(answers, ANNOTATIONS, "annotations"):
        identity = row.integer("question_id")
        scores = soft_scores(answer.text("answer") for answer in row.rows("answers"))
        if identity not in texts:
            made.drop("an answer without its question")
        elif not scores:
            made.drop("no answer that counts")
        else:
            common = normalise(row.text("multiple_choice_answer"))
            best = min(scores, key=lambda answer: (-scores[answer], answer != common, answer))
            name = f"COCO_{IMAGE_SETS[split]}_{row.integer('image_id'):012d}"
            made.question(f"vqa-{identity}", name, texts[identity], best, split, row.text("answer_type"), scores)


def _aliases(name: str) -> tuple[str, ...]:
    """Return the names of a COCO image: COCO_train2014_000000000009 in 2014, 000000000009 in 2017."""
    return name, name.rsplit("_", 1)[-1]
