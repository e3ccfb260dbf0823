"""Searching: the scores of the pipeline, moments of long videos, filters, examples, and wrong questions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_releases import save_model

from clipbert import pipeline
from clipbert.errors import ClipBertError
from clipbert.search import SearchIndex, VideoSource, build_index
from clipbert.search.segment import CLIPS_FILE, TOKENS_FILE, VECTORS_FILE

pytestmark = pytest.mark.slow  # decodes files in other processes

TEXT = "a red square moves left"


def segment_file(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"segments/*/{name}")
    return found


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_scores_are_those_of_the_pipeline(built: Path, search_model: Any, library: Path) -> None:
    hits = SearchIndex.open(built).search(search_model, TEXT, k=20)
    assert sorted(hit.video_id for hit in hits) == sorted([*(f"{i}.mp4" for i in range(7)), "red.png", "sub/long.mp4"])
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        item: Any = hit.path
        if hit.video_id == "sub/long.mp4":
            assert (hit.start_s, hit.end_s) in [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
            item = {"video": hit.path, "start_s": hit.start_s, "end_s": hit.end_s}
        (expected,) = search_model.match(search_model.encode([item]), [TEXT])
        assert hit.reranked
        assert hit.score == pytest.approx(expected, abs=0.02)  # the tokens are stored in half precision


def test_without_stored_tokens_candidates_are_decoded_again(
    built: Path, search_model: Any, sources: list[VideoSource], tmp_path: Path
) -> None:
    build_index(tmp_path / "search", search_model, sources, clip_s=2.0, tokens=False, title=None)
    index = SearchIndex.open(tmp_path / "search")
    assert not index.info().tokens
    expected = SearchIndex.open(built).search(search_model, TEXT, k=20)
    found = index.search(search_model, TEXT, k=20)
    assert {hit.video_id: hit.score for hit in found} == pytest.approx(
        {hit.video_id: hit.score for hit in expected}, abs=0.02
    )


def test_the_first_stage_alone_and_what_is_not_reranked(built: Path, search_model: Any) -> None:
    index = SearchIndex.open(built)
    first = index.search(search_model, TEXT, k=20, rerank=0)
    assert not any(hit.reranked for hit in first)
    with torch.inference_mode():
        vector = search_model.model.get_text_features(*search_model.tokenize([TEXT]))
        best = search_model.model.get_video_features(search_model.encode([first[0].path]))
        expected = float(search_model.model.similarity(vector, best))
    if first[0].video_id != "sub/long.mp4":
        assert first[0].score == pytest.approx(expected, abs=0.01)
    mixed = index.search(search_model, TEXT, k=20, rerank=3)
    assert [hit.reranked for hit in mixed] == [True] * 3 + [False] * 6
    assert {hit.video_id for hit in mixed[:3]} == {hit.video_id for hit in first[:3]}
    assert [hit.video_id for hit in mixed[3:]] == [hit.video_id for hit in first[3:]]


def test_an_example_finds_itself_first(built: Path, search_model: Any, library: Path) -> None:
    index = SearchIndex.open(built)
    hits = index.search(search_model, video=library / "3.mp4", k=2)
    assert hits[0].video_id == "3.mp4"
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
    assert index.search(search_model, image=library / "red.png", k=1)[0].video_id == "red.png"


def test_filters(tmp_path: Path, search_model: Any, sources: list[VideoSource]) -> None:
    marked = [
        VideoSource(each.video_id, each.path, {"split": "test" if number % 3 == 0 else "train", "year": 2000 + number})
        for number, each in enumerate(sources)
    ]
    build_index(tmp_path / "search", search_model, marked, title=None)
    index = SearchIndex.open(tmp_path / "search")
    test = {each.video_id for each in marked if each.metadata["split"] == "test"}
    found = index.search(search_model, TEXT, where={"split": "test"})
    assert {hit.video_id for hit in found} == test
    assert all(hit.metadata["split"] == "test" for hit in found)
    assert len(index.search(search_model, TEXT, where={"split": ["test", "train"]})) == len(marked)
    assert [hit.metadata for hit in index.search(search_model, TEXT, where={"year": "2003"})] == [
        {"split": "test", "year": 2003}
    ]
    assert index.search(search_model, TEXT, where={"split": "val"}) == []
    with pytest.raises(ClipBertError, match=r"color: not a metadata column of .*: expected one of split, year"):
        index.search(search_model, TEXT, where={"color": "red"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": " "}, "text is ' ': expected a description"),
        ({"text": TEXT, "k": 0}, "k is 0: expected the number of hits"),
        ({"text": TEXT, "k": -3}, "k is -3"),
        ({"text": TEXT, "rerank": -1}, "rerank is -1"),
        ({}, "nothing to search for: expected one of text, video and image"),
        ({"text": TEXT, "video": "a.mp4"}, "text and video to search for"),
        ({"video": "gone.mp4"}, "'gone.mp4': not found"),
    ],
)
def test_wrong_questions(built: Path, search_model: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ClipBertError, match=message):
        SearchIndex.open(built).search(search_model, **arguments)


def test_another_model_is_refused(built: Path, tmp_path: Path, sources: list[VideoSource]) -> None:
    other = pipeline("retrieval", save_model(tmp_path / "other", "retrieval", 1))
    with pytest.raises(ClipBertError, match=r"was made with another model .*clipbert index build --replace"):
        SearchIndex.open(built).search(other, TEXT)
    with pytest.raises(ClipBertError, match="was made with another model"):
        build_index(built, other, sources, clip_s=2.0, title=None)


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(ClipBertError, match="no search index here"):
        SearchIndex.open(tmp_path / "nothing")


@pytest.mark.parametrize("name", [VECTORS_FILE, CLIPS_FILE, "videos.parquet"])
def test_a_damaged_segment_is_refused(index_copy: Path, name: str) -> None:
    path = segment_file(index_copy, name)
    flip(path, path.stat().st_size // 2)
    with pytest.raises(ClipBertError, match=f"{name}: damaged: it is not what was written"):
        SearchIndex.open(index_copy)


def test_damaged_tokens_are_noticed_when_they_are_read(index_copy: Path, search_model: Any) -> None:
    flip(segment_file(index_copy, TOKENS_FILE), -1)
    index = SearchIndex.open(index_copy)
    with pytest.raises(ClipBertError, match=r"tokens\.npy: damaged"):
        index.search(search_model, TEXT, k=20)


def test_a_missing_file_and_a_damaged_state(index_copy: Path) -> None:
    flip(index_copy / "index.json", 40)
    with pytest.raises(ClipBertError, match=r"index\.json"):
        SearchIndex.open(index_copy)
    flip(index_copy / "index.json", 40)
    segment_file(index_copy, CLIPS_FILE).unlink()
    with pytest.raises(ClipBertError, match=r"clips\.npy: missing"):
        SearchIndex.open(index_copy)
