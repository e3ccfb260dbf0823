"""Importer of TGIF-QA (Jang et al., CVPR 2017): four tasks about animated GIFs, tab-separated files.

action (what is repeated N times) and transition (what happens before or after) are multiple choice of 5; frameqa and
count are open questions. The papers report the mean squared error of count, whose answers are 0 and 2 to 10. There is
no validation split. The tasks split the GIFs differently, so each is imported as a data set of its own.
"""

from pathlib import Path
from typing import Literal

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.datasets.msrvtt_mc import OPTIONS
from clipbert.data.importers.readers import split_files, table_rows
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError

PROTOCOLS = {
    "action": Protocol(texts={"train": 20_475, "test": 2_274}),
    "transition": Protocol(texts={"train": 52_704, "test": 6_232}),
    "frameqa": Protocol(texts={"train": 39_392, "test": 13_691}, answers=1_540),
    "count": Protocol(texts={"train": 26_843, "test": 3_554}, answers=10),
}
FRAMEQA_TYPES = {"0": "object", "1": "number", "2": "color", "3": "location"}
LAYOUT = {
    "action": "the columns gif_name, question, a1 to a5, answer, vid_id, key, tab-separated",
    "transition": "the columns gif_name, question, a1 to a5, answer, vid_id, key, tab-separated",
    "frameqa": "the columns gif_name, question, answer, type, vid_id, key, tab-separated",
    "count": "the columns gif_name, question, answer, vid_id, key, tab-separated",
}


@importer(
    "tgif_qa",
    title="TGIF-QA",
    paper="Jang et al., CVPR 2017",
    about="TGIF-QA: action and transition (choice of five), frameqa and count (open questions).",
    tasks=("multiple_choice", "open_qa"),
    annotations="Train_TASK_question.csv, Test_TASK_question.csv",
    example="tgif-qa/dataset/ gifs/ --task action --hold-out val=0.1",
    media="gifs",
    published=PROTOCOLS,
    options={"task": "Which of its four data sets."},
)
def import_tgif_qa(
    annotations: Path, source: Source, task: Literal["action", "transition", "frameqa", "count"]
) -> ImportSummary:
    """Import one task of TGIF-QA.

    Args:
        annotations: a folder with Train_TASK_question.csv and Test_TASK_question.csv, or one of them.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    if task not in PROTOCOLS:
        raise ClipBertError(f"task {task}: expected one of {', '.join(PROTOCOLS)}.")
    protocol, layout = PROTOCOLS[task], LAYOUT[task]
    files = split_files(annotations, (f"*{task}*question*.csv",), layout)
    with importing(source, protocol, vocabulary=protocol.answers) as made:
        for split, path in files.items():
            for row in table_rows(path, layout):
                identity, name = f"tgif-{task}-{split}-{row.text('vid_id')}", row.text("gif_name")
                question = row.text("question")
                if task in ("action", "transition"):
                    options = [row.text(option) for option in OPTIONS]
                    made.choice(identity, name, question, options, row.integer("answer"), split)
                elif task == "count":
                    made.question(identity, name, question, str(row.integer("answer")), split, "count")
                else:
                    kind = FRAMEQA_TYPES.get(row.text("type"))
                    if kind is None:
                        raise row.error(f"type {row.text('type')}, which is none of {', '.join(FRAMEQA_TYPES)}")
                    made.question(identity, name, question, row.text("answer"), split, kind)
    return made.summary
