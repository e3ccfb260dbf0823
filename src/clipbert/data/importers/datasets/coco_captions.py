"""Importer of COCO Captions (Chen et al., 2015): five captions per image.

dataset_coco.json holds Karpathy's split, with which image-text retrieval and captioning are reported; its training
images are train and restval. The official captions_*.json of 2014 and 2017 have no public test split.
"""

from pathlib import Path

from clipbert.data.importers.base import Import, Source, importing
from clipbert.data.importers.karpathy import add_karpathy
from clipbert.data.importers.limits import HeldTexts
from clipbert.data.importers.readers import json_records, split_files
from clipbert.data.importers.registry import importer
from clipbert.data.importers.summary import ImportSummary, Protocol

KARPATHY = Protocol(
    media={"train": 113_287, "val": 5_000, "test": 5_000}, texts={"train": 566_747, "val": 25_010, "test": 25_010}
)
OFFICIAL = {
    "2014": Protocol(media={"train": 82_783, "val": 40_504}, texts={"train": 414_113, "val": 202_654}),
    "2017": Protocol(media={"train": 118_287, "val": 5_000}, texts={"train": 591_753, "val": 25_014}),
}
KARPATHY_FILE = "dataset_coco.json"
LAYOUT = '{"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}'


@importer(
    "coco_captions",
    title="COCO Captions",
    paper="Chen et al., 2015",
    about="COCO Captions, by Karpathy's split or the official one.",
    tasks=("retrieval", "captioning", "pretrain"),
    annotations="dataset_coco.json, or captions_train2014.json and captions_val2014.json, or those of 2017",
    example="dataset_coco.json images/",
    media="images",
    published={"Karpathy": KARPATHY, **OFFICIAL},
)
def import_coco_captions(annotations: Path, source: Source) -> ImportSummary:
    """Import COCO Captions.

    Args:
        annotations: dataset_coco.json, or a folder with it; else a folder with captions_*.json, or one of them.

    Raises:
        ClipBertError: a file is missing or not in its layout, or see `importing`.
    """
    karpathy = annotations / KARPATHY_FILE if annotations.is_dir() else annotations
    if karpathy.is_file() and karpathy.name.startswith("dataset_"):
        with importing(source, KARPATHY) as made:
            add_karpathy(made, karpathy, "coco")
        return made.summary
    files = split_files(annotations, ("captions_*.json", "captions_*.json.zip"), LAYOUT)
    year = next((year for year in OFFICIAL if all(year in path.name for path in files.values())), None)
    with importing(source, OFFICIAL[year] if year else Protocol()) as made:
        for split, path in files.items():
            _add_official(made, path, split)
    return made.summary


def _add_official(made: Import, path: Path, split: str) -> None:
    held = HeldTexts(path)
    names = {row.integer("id"): held.hold(row.text("file_name")) for row in json_records(path, LAYOUT, "images")}
    for row in json_records(path, LAYOUT, "annotations"):
        name = names.get(row.integer("image_id"))
        if name is None:
            made.drop("an image that is not in the annotations")
        else:
            made.caption(f"coco-{row.text('id')}", name, row.text("caption"), split)
