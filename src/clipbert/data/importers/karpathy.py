"""Reader of Karpathy's split files (Karpathy and Fei-Fei, CVPR 2015): dataset_coco.json, dataset_flickr8k.json, ..."""

from pathlib import Path

from clipbert.data.importers.base import Import
from clipbert.data.importers.readers import json_records

KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
LAYOUT = '{"images": [{"filename", "split", "sentences": [{"raw", "sentid"}]}]}'


def add_karpathy(made: Import, path: Path, prefix: str) -> None:
    """Add every sentence of the file; `restval`, COCO's images outside val and test, is training."""
    for row in json_records(path, LAYOUT, "images"):
        split = KARPATHY_SPLITS.get(row.text("split"))
        if split is None:
            raise row.error(f"split {row.text('split')}, which is none of {', '.join(KARPATHY_SPLITS)}")
        for sentence in row.rows("sentences"):
            made.caption(f"{prefix}-{sentence.text('sentid')}", row.text("filename"), sentence.text("raw"), split)
