"""Importer of Flickr8k (Hodosh et al., JAIR 2013): 8,000 images with five captions each.

Captions are read from Flickr8k.token.txt (`image.jpg#0<tab>caption`) or captions.txt (columns image, caption), splits
from Flickr_8k.trainImages.txt, devImages and testImages in the same folder. dataset_flickr8k.json holds both. Without
split files the images are split by a hash of their names in the official proportions, and the summary says so.
"""

from collections.abc import Iterator
from pathlib import Path

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.karpathy import add_karpathy
from clipbert.data.importers.limits import limited_lines
from clipbert.data.importers.readers import opened, table_rows
from clipbert.data.importers.registry import importer
from clipbert.data.importers.splits import hashed_split
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError

PROTOCOL = Protocol(
    media={"train": 6_000, "val": 1_000, "test": 1_000}, texts={"train": 30_000, "val": 5_000, "test": 5_000}
)
FRACTIONS = {"val": 0.125, "test": 0.125}
NAMES = ("dataset_flickr8k.json", "Flickr8k.token.txt", "captions.txt")
SPLIT_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
LAYOUT = "the columns image, caption, or image.jpg#0, a tab, a caption"


@importer(
    "flickr8k",
    title="Flickr8k",
    paper="Hodosh et al., JAIR 2013",
    about="Flickr8k: 8,000 images with five captions each.",
    tasks=("retrieval", "captioning", "pretrain"),
    annotations="Flickr8k.token.txt or captions.txt with Flickr_8k.trainImages.txt, devImages, testImages; or "
    "dataset_flickr8k.json",
    example="Flickr8k_text/ Flicker8k_Dataset/",
    media="images",
    published=PROTOCOL,
)
def import_flickr8k(annotations: Path, source: Source) -> ImportSummary:
    """Import Flickr8k.

    Args:
        annotations: one of NAMES, or a folder with one.

    Raises:
        ClipBertError: a file is missing or not in its layout, or see `importing`.
    """
    inside = [annotations / name for name in NAMES if (annotations / name).is_file()]
    path = inside[0] if inside else annotations
    if not path.is_file():
        raise ClipBertError(f"{annotations}: expected one of {', '.join(NAMES)}, or a folder with one.")
    splits = _read_splits(path.parent)
    official = bool(splits) or path.suffix == ".json"
    with importing(source, PROTOCOL if official else Protocol()) as made:
        if path.suffix == ".json":
            add_karpathy(made, path, "flickr8k")
            return made.summary
        for identity, name, caption in _captions(path):
            split = splits.get(name) if splits else hashed_split("split", name, FRACTIONS)
            if split is None:
                made.drop("an image in none of the split files")
            else:
                made.caption(identity, name, caption, split)
        if not official:
            made.summary.notes.append(
                f"no {SPLIT_FILES['train']} in {path.parent}: the images were split by a hash of their names, 75 % "
                "train, 12.5 % val, 12.5 % test; not the official splits"
            )
    return made.summary


def _captions(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (caption id, image, caption)."""
    with opened(path) as stream:
        tokens = "#" in next(limited_lines(path, stream), "").split("\t")[0]
    table = ((row.text("image"), row.text("caption")) for row in table_rows(path, LAYOUT))
    numbers: dict[str, int] = {}
    for name, caption in _token_rows(path) if tokens else table:
        name = name.split("#")[0]
        number = numbers[name] = numbers.get(name, -1) + 1
        yield f"flickr8k-{name}-{number}", name, caption


def _token_rows(path: Path) -> Iterator[tuple[str, str]]:
    with opened(path) as stream:
        for number, line in enumerate(limited_lines(path, stream), start=1):
            name, tab, caption = line.partition("\t")
            if not tab and line.strip():
                raise ClipBertError(f"{path}: line {number}: no tab; expected {LAYOUT}.")
            if tab:
                yield name, caption


def _read_splits(folder: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, name in SPLIT_FILES.items():
        if (folder / name).is_file():
            with opened(folder / name) as stream:
                splits |= {line.strip(): split for line in limited_lines(folder / name, stream) if line.strip()}
    return splits
