"""Texts that are cut at the model's limit are counted, and those that are the same after it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from canonical_data import caption

from clipbert.config.data import IngestParams
from clipbert.config.schema import Params
from clipbert.data.ingest.stage import ingest
from clipbert.data.validation.stage import validate
from clipbert.data.validation.truncation import TextLimit, measure_truncation
from clipbert.errors import ClipBertError
from clipbert.model.text_limit import text_limit
from clipbert.model.tokenizer import train_tokenizer
from clipbert.project import Project

WORDS: dict[str, int] = {}


def by_word(texts: list[str]) -> Sequence[Sequence[int]]:
    return [[0, *(WORDS.setdefault(word, len(WORDS) + 2) for word in text.split()), 1] for text in texts]


def table(*rows: tuple[str, str, str, list[str] | None]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["kind", "split", "text", "options"])


def test_shares() -> None:
    texts = table(
        ("caption", "train", "a b c d one", None),
        ("caption", "train", "a b c d two", None),
        ("caption", "train", "a b c d two", None),  # the same whole text is no other text
        ("caption", "train", "x b c d two", None),
        ("caption", "val", "a b c d one", None),
        ("caption", "val", "a b c d", None),  # as long as the limit
        ("multiple_choice", "test", "a b", ["c", "c d e"]),
    )
    found = measure_truncation(texts, TextLimit(by_word, 6))
    assert found.to_dict("list") == {
        "kind": ["caption", "caption", "multiple_choice"],
        "split": ["train", "val", "test"],
        "texts": [4, 2, 1],
        "truncated": [4, 1, 1],
        "identical": [3, 1, 0],
        "truncated_share": [1.0, 0.5, 1.0],
        "identical_share": [0.75, 0.5, 0.0],
    }


def test_the_cut_is_that_of_the_processor() -> None:
    """The kept tokens are those of Hugging Face's truncation."""
    tokenizer = train_tokenizer(["a man walks his dog", "a man walks the cat"], vocab_size=100)
    ids = tokenizer(["a man walks his dog"])["input_ids"][0]
    assert tokenizer(["a man walks his dog"], truncation=True, max_length=5)["input_ids"][0] == [*ids[:4], ids[-1]]


@pytest.mark.slow
def test_validation_reports_long_captions(
    tmp_path: Path, tiny_data: object, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_data(tmp_path / "data", train=3)  # type: ignore[operator]
    before = " ".join(["first the camera shows a long room with people and then"] * 8)
    for number in range(3):
        caption(data, id=f"long{number}", text=f"{before} {number}", media=f"videos/{number}.mp4")
    ingest(data, tmp_path / "artifacts" / "manifest", IngestParams())
    project, params = Project(tmp_path), Params.model_validate({"validate": {"severity": {"text_identical": "fail"}}})
    limit = text_limit(tmp_path, project.manifest, params.model)
    assert limit.max_text_length == 64
    loose = params.validate_.model_copy(update={"max_near_duplicates": 1.0})
    with pytest.raises(ClipBertError, match=r"text_identical: truncation: .*1 of 3 rows") as caught:
        validate(project.manifest, project.validation, loose, limit=limit)
    assert "kind=caption, split=train, texts=6, truncated=3, identical=3" in str(caught.value)
    said = capsys.readouterr().out
    assert "text_truncated" in said
    assert "train_size: sizes" in said


@pytest.mark.slow
def test_a_limit_that_cannot_be_known_is_told(tmp_path: Path, tiny_data: object) -> None:
    data = tiny_data(tmp_path / "data")  # type: ignore[operator]
    ingest(data, tmp_path / "artifacts" / "manifest", IngestParams())
    params = Params.model_validate({"model": {"text": "models/none"}})
    (tmp_path / "models" / "none").mkdir(parents=True)
    assert "no tokenizer could be read" in text_limit(tmp_path, Project(tmp_path).manifest, params.model)
