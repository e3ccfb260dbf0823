"""MSRVTT-MC in its public forms; the official file is not at hand, so these have its layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.data.importers.datasets.msrvtt_mc import QUESTION, import_msrvtt_mc

FIVE = ["a dog", "a cat", "a cow", "a hen", "a pig"]
HEADER = "key\tvid_key\ta1\ta2\ta3\ta4\ta5\tanswer\n"
FORMS = {
    "MSR_MC_test.csv": HEADER + "MC1\tmsr7010\t" + "\t".join(FIVE) + "\t3\n",
    "comma.csv": HEADER.replace("\t", ",") + "MC1,msr7010," + ",".join(FIVE) + ",3\n",
    "msrvtt_mc_test.jsonl": [{"qid": "MC1", "clip_name": "video7010", "options": FIVE, "answer": 3}],
    "msrvtt_mc_test.json": [{"qid": "MC1", "video": "video7010.mp4", "caption": FIVE, "answer": 3}],
}


@pytest.mark.parametrize("name", FORMS)
def test_public_forms(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
    name: str,
) -> None:
    summary = import_msrvtt_mc(annotated(name, FORMS[name]), source(media("video7010.mp4")))
    assert rows("multiple_choice.jsonl") == [
        {
            "id": "choice-MC1",
            "question": QUESTION,
            "options": FIVE,
            "answer": 3,
            "media": "videos/video7010.mp4",
            "split": "test",
        }
    ]
    assert "test: 1 media, 1 texts in these files (published: 2990 media, 2990 texts)" in summary.lines()


def test_four_options(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    path = annotated("mc.jsonl", [{"clip_name": "video1", "options": FIVE[:4], "answer": 0}])
    assert "line 1: 4 options, not 5" in failing(import_msrvtt_mc, path, source(media("video1.mp4")))
