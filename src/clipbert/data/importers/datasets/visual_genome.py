"""Importer of Visual Genome's region descriptions (Krishna et al., IJCV 2017), for pretraining.

Images are named by their number (VG_100K/1.jpg, VG_100K_2/2.jpg). There are no official splits: images are split by a
hash of their number, 98 % train, 1 % val, 1 % test. ClipBERT pretrains on COCO and Visual Genome captions together.
Half of the images are COCO's: remove those of a COCO test set before testing on it.
"""

from pathlib import Path

from clipbert.data.importers.base import Source, importing
from clipbert.data.importers.readers import json_records
from clipbert.data.importers.registry import importer
from clipbert.data.importers.splits import hashed_split
from clipbert.data.importers.summary import ImportSummary, Protocol
from clipbert.errors import ClipBertError

IMAGES, REGIONS = 108_077, 5_408_689
FRACTIONS = {"val": 0.01, "test": 0.01}
NAMES = ("region_descriptions.json", "region_descriptions.json.zip")
LAYOUT = '[{"id": image, "regions": [{"image_id", "phrase"}]}]'


@importer(
    "visual_genome",
    title="Visual Genome",
    paper="Krishna et al., IJCV 2017",
    about="Visual Genome: 5.4 million descriptions of regions of 108,077 images, for pretraining.",
    tasks=("pretrain",),
    annotations="region_descriptions.json",
    example="region_descriptions.json images/ --regions-per-image 10",
    media="images",
    options={"regions_per_image": "Keep this many phrases of each image. Default: all."},
)
def import_visual_genome(annotations: Path, source: Source, regions_per_image: int | None = None) -> ImportSummary:
    """Import Visual Genome's region descriptions, with one image in memory at a time.

    Args:
        annotations: region_descriptions.json, its zip, or a folder with one.
        regions_per_image: how many different phrases of each image are kept; None: all.

    Raises:
        ClipBertError: the file is missing or not in its layout, or see `importing`.
    """
    if regions_per_image is not None and regions_per_image < 1:
        raise ClipBertError(f"regions_per_image = {regions_per_image}: expected at least 1.")
    inside = [annotations / name for name in NAMES if (annotations / name).is_file()]
    path = inside[0] if inside else annotations
    protocol = Protocol(notes=("images were split by a hash of their number: 98 % train, 1 % val, 1 % test",))
    seen: set[int] = set()
    with importing(source, protocol, unique_ids=True) as made:
        for row in json_records(path, LAYOUT):
            image = row.integer("id")
            if image in seen:
                raise row.error(f"image {image} for the second time")
            seen.add(image)
            split = hashed_split("split", str(image), FRACTIONS)
            phrases: set[str] = set()
            for number, region in enumerate(row.rows("regions")):
                phrase = " ".join(region.text("phrase").split())
                if phrase in phrases:
                    made.drop("a phrase that the image has already")
                elif regions_per_image is None or len(phrases) < regions_per_image:
                    made.caption(f"vg-{image}-{number}", str(image), phrase, split)
                    phrases.add(phrase)
    made.summary.notes.append(f"{len(seen)} images in the file (published: {IMAGES} with {REGIONS} regions)")
    return made.summary
