"""Flickr8k on real images; COCO Captions and Visual Genome, not at hand, in their official layouts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipbert.config.data import IngestParams
from clipbert.data.importers.datasets.coco_captions import import_coco_captions
from clipbert.data.importers.datasets.flickr8k import import_flickr8k
from clipbert.data.importers.datasets.visual_genome import import_visual_genome
from clipbert.data.ingest.stage import ingest
from clipbert.data.manifest import read_texts, read_videos

KARPATHY = {
    "images": [
        {"filename": f"COCO_{number}.jpg", "split": split, "sentences": [{"raw": f"a {split}.", "sentid": number}]}
        for number, split in enumerate(("train", "restval", "val", "test"))
    ]
}
OFFICIAL = {
    "info": {"year": 2014, "description": 'with "quotes" and [brackets]'},
    "images": [{"license": 5, "file_name": "COCO_val2014_000000000009.jpg", "id": 9}],
    "licenses": [],
    "annotations": [
        {"image_id": 9, "id": 48, "caption": "A very clean\nbathroom."},
        {"image_id": 9, "id": 49, "caption": " "},
        {"image_id": 9, "id": 48, "caption": "The id again."},
        {"image_id": 10, "id": 51, "caption": "No such image."},
    ],
}


def test_real_flickr8k(
    tmp_path: Path, shared_data: Path, source: Callable[..., Any], rows: Callable[[str], list[dict[str, Any]]]
) -> None:
    folder = shared_data / "flickr8k_600"
    if not folder.is_dir():
        pytest.skip("shared/data holds no flickr8k_600")
    summary = import_flickr8k(folder, source(folder / "images"))
    assert summary.texts("caption") == 3_000
    assert summary.splits() == {"train": 447, "val": 81, "test": 72}
    assert any("split by a hash of their names, 75 % train" in line for line in summary.lines())
    assert len({row["id"] for row in rows("captions.jsonl")}) == 3_000


@pytest.mark.slow
@pytest.mark.pipeline
def test_real_images_are_one_frame_media(tmp_path: Path, shared_data: Path, source: Callable[..., Any]) -> None:
    folder = shared_data / "flickr8k_600"
    if not folder.is_dir():
        pytest.skip("shared/data holds no flickr8k_600")
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((folder / "images").iterdir())[:20]:
        shutil.copy(path, images)
    summary = import_flickr8k(folder, source(images))
    assert (len(summary.media), len(summary.missing)) == (20, 580)
    found = ingest(tmp_path / "data", tmp_path / "manifest", IngestParams())
    assert found.media == {"image": 20}
    assert not found.quarantined
    assert read_videos(tmp_path / "manifest")["num_frames"].tolist() == [1] * 20
    assert len(read_texts(tmp_path / "manifest")) == 100


def test_flickr8k_tokens_with_the_official_splits(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    lines = "".join(f"{name}.jpg#{number}\tA {name} , {number} .\n" for name in "abcd" for number in range(2))
    path = annotated("Flickr8k.token.txt", lines)
    for name, image in (("trainImages", "a"), ("devImages", "b"), ("testImages", "c")):
        annotated(f"Flickr_8k.{name}.txt", f"{image}.jpg\r\n")
    summary = import_flickr8k(path.parent, source(media("a.jpg", "b.jpg", "c.jpg", "d.jpg")))
    assert [(row["id"], row["media"], row["split"]) for row in rows("captions.jsonl")][::2] == [
        ("flickr8k-a.jpg-0", "images/a.jpg", "train"),
        ("flickr8k-b.jpg-0", "images/b.jpg", "val"),
        ("flickr8k-c.jpg-0", "images/c.jpg", "test"),
    ]
    assert "left out: 2 with an image in none of the split files" in summary.lines()


def test_flickr8k_table_with_a_quoted_line_break(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    content = b'\xef\xbb\xbfimage,caption\r\na.jpg,"one,\r\ntwo ""three"""\r\n\r\na.jpg,four\r\n'
    path = annotated("captions.txt", content)
    import_flickr8k(path, source(media("a.jpg")))
    assert [row["text"] for row in rows("captions.jsonl")] == ['one, two "three"', "four"]


def test_coco_by_karpathys_split(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    path = annotated("dataset_coco.json", KARPATHY)
    summary = import_coco_captions(path.parent, source(media(*(f"val2014/COCO_{number}.jpg" for number in range(4)))))
    assert [(row["id"], row["split"]) for row in rows("captions.jsonl")] == [
        ("coco-0", "train"),
        ("coco-1", "train"),
        ("coco-2", "val"),
        ("coco-3", "test"),
    ]
    assert "train: 2 media, 2 texts in these files (published: 113287 media, 566747 texts)" in summary.lines()


def test_coco_by_the_official_split(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
) -> None:
    path = annotated("captions_val2014.json", OFFICIAL)
    summary = import_coco_captions(path.parent, source(media("COCO_val2014_000000000009.jpg")))
    assert [(row["id"], row["text"], row["split"]) for row in rows("captions.jsonl")] == [
        ("coco-48", "A very clean bathroom.", "val")
    ]
    assert dict(summary.dropped) == {
        "an empty caption": 1,
        "an id that was used before": 1,
        "an image that is not in the annotations": 1,
    }
    assert "train: not in these files (published: 82783 media, 414113 texts)" in summary.lines()


def test_coco_without_annotations(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    path = annotated("captions_val2014.json", {"images": [], "annotation": []})
    text = failing(import_coco_captions, path, source(media("a.jpg")))
    assert "has no 'annotations' (did you mean annotation?), only images, annotation" in text


def test_visual_genome(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    rows: Callable[[str], list[dict[str, Any]]],
    failing: Callable[..., str],
) -> None:
    def image(number: int, *phrases: str) -> dict[str, Any]:
        return {"id": number, "regions": [{"region_id": 7, "image_id": number, "phrase": text} for text in phrases]}

    images = [image(number, "the clock", " the  clock", "a wall", "") for number in range(1, 400)]
    path = annotated("region_descriptions.json", images)
    folder = media(*(f"VG_100K{'_2' if number % 2 else ''}/{number}.jpg" for number in range(1, 400)))
    summary = import_visual_genome(path.parent, source(folder))
    assert summary.texts("caption") == 2 * 399
    assert dict(summary.dropped) == {"a phrase that the image has already": 399, "an empty caption": 399}
    assert summary.splits()["train"] > 380
    assert summary.splits().total() == 399
    assert rows("captions.jsonl")[1]["id"] == "vg-1-2"
    assert "399 images in the file (published: 108077 with 5408689 regions)" in summary.lines()


def test_visual_genome_limits_and_repeated_images(
    annotated: Callable[..., Path],
    media: Callable[..., Path],
    source: Callable[..., Any],
    failing: Callable[..., str],
) -> None:
    regions = [{"phrase": "a"}, {"phrase": "b"}]
    path = annotated("region_descriptions.json", [{"id": 1, "regions": regions}, {"id": 1, "regions": regions}])
    text = failing(import_visual_genome, path, source(media("1.jpg")))
    assert "item 2: image 1 for the second time" in text
    path = annotated("region_descriptions.json", [{"id": 1, "regions": regions}])
    assert import_visual_genome(path, source(media("1.jpg")), 1).texts("caption") == 1
