"""Importer of MSVD-QA (Xu et al., ACM MM 2017): 50,505 questions about 1,970 YouTube clips.

The splits have 1,200, 250 and 520 clips, a few of them without questions (245 of val have some). `video_id` 1 to 1970
is vid1 to vid1970 of youtube_mapping.txt (`-4wsuPCjDBc_5_15 vid1`); media may have either name. The answer vocabulary
is the 1,000 most frequent training answers, as in the paper.
"""

from pathlib import Path

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.datasets.msrvtt_qa import TYPES, first_word
from clipbert.data.importers.limits import limited_lines
from clipbert.data.importers.readers import opened, records, split_files
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError

PROTOCOL = Protocol(
    texts={"train": 30_933, "val": 6_415, "test": 13_157},
    answers=1_000,
)
PATTERNS = ("*_qa.json", "*qa*.jsonl")
LAYOUT = '{"id", "video_id": 1, "question", "answer"}'
MAPPING = "youtube_mapping.txt"


@importer(
    "msvd_qa",
    title="MSVD-QA",
    paper="Xu et al., ACM MM 2017",
    about="MSVD-QA: open questions about YouTube clips, 1,000 answers.",
    tasks=("open_qa",),
    annotations="train_qa.json, val_qa.json, test_qa.json, youtube_mapping.txt",
    example="MSVD-QA/ YouTubeClips/",
    published=PROTOCOL,
    options={"mapping": "youtube_mapping.txt. Default: the one in the folder of the annotations."},
)
def import_msvd_qa(annotations: Path, source: Source, mapping: Path | None = None) -> ImportSummary:
    """Import MSVD-QA.

    Args:
        annotations: a folder with its files, or one of them; the split is read from the name.
        mapping: youtube_mapping.txt; None: the one in the folder of the annotations, if any.

    Raises:
        ClipBertError: a file is missing or not in its official layout, or see `importing`.
    """
    files = split_files(annotations, PATTERNS, LAYOUT)
    found = next(iter(files.values())).parent / MAPPING
    names = _read_mapping(mapping or found) if mapping or found.is_file() else {}
    with importing(source, PROTOCOL, lambda name: (name, *names.get(name, ())), PROTOCOL.answers) as made:
        for split, path in files.items():
            for row in records(path, LAYOUT):
                question = row.text("question")
                name = f"vid{row.integer('video_id')}"
                kind = first_word(question, TYPES)
                made.question(f"msvd-{row.text('id')}", name, question, row.text("answer"), split, kind)
    return made.summary


def _read_mapping(path: Path) -> dict[str, tuple[str]]:
    names = {}
    with opened(path) as stream:
        for number, line in enumerate(limited_lines(path, stream), start=1):
            words = line.split()
            if words and (len(words) != 2 or not words[1].startswith("vid")):
                raise ClipBertError(f"{path}: line {number}: {line.strip()!r}; expected `YOUTUBE_START_END vid1`.")
            if words:
                names[words[1]] = (words[0],)
    return names
