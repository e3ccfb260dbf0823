"""How long the largest official annotations take to import, and in how much memory: files of their size and layout.

Visual Genome's region descriptions (images x regions) and VQA 2.0 (questions of ten answers), made here, with an empty
file for each image. Peak memory is that of a process of its own for each import, compared with `json.loads` of
the same file.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipbert.data.importers.base import Source
from clipbert.data.importers.datasets.visual_genome import import_visual_genome
from clipbert.data.importers.datasets.vqa2 import import_vqa2

WORDS = ("a", "red", "car", "near", "the", "tall", "tree", "dog", "on", "grass", "man", "walking")


def phrase(seed: int) -> str:
    """Five words that depend on the seed."""
    return " ".join(WORDS[(seed * 7 + step * step * 5 + seed // (3 + step)) % len(WORDS)] for step in range(5))


def make_visual_genome(folder: Path, images: int, regions: int) -> Path:
    """region_descriptions.json in the official layout."""
    path = folder / "region_descriptions.json"
    with path.open("w") as file:
        for image in range(images):
            rows = [
                {
                    "region_id": image * regions + region,
                    "width": 82,
                    "height": 139,
                    "image_id": image,
                    "phrase": f"{phrase(image + region)} {region}",
                    "y": 57,
                    "x": 421,
                }
                for region in range(regions)
            ]
            file.write(("[" if image == 0 else ", ") + json.dumps({"regions": rows, "id": image}))
        file.write("]")
    return path


def make_vqa(folder: Path, images: int, questions: int) -> Path:
    """train2014's questions and answers in the official layout."""
    asked = folder / "v2_OpenEnded_mscoco_train2014_questions.json"
    told = folder / "v2_mscoco_train2014_annotations.json"
    with asked.open("w") as first, told.open("w") as second:
        first.write('{"info": {}, "questions": [')
        second.write('{"info": {}, "annotations": [')
        for number in range(questions):
            common = {"question_id": number, "image_id": number % images}
            answers = [
                {"answer": phrase(number + place // 7)[:9], "answer_confidence": "yes", "answer_id": place + 1}
                for place in range(10)
            ]
            more = {"question_type": "what", "answer_type": "other", "multiple_choice_answer": answers[0]["answer"]}
            comma = ", " if number else ""
            first.write(comma + json.dumps({**common, "question": phrase(number) + "?"}))
            second.write(comma + json.dumps({**common, **more, "answers": answers}))
        first.write("]}")
        second.write("]}")
    return told


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """(seconds, peak MiB) of a call in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_timed, (work, arguments))


def _timed(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, float]:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_import(importer: Callable[..., Any], annotations: Path, media: Path, out: Path) -> None:
    """One import; its summary stays in the process."""
    importer(annotations, Source(media, out))


def load_whole(path: Path) -> None:
    """What a plain reader does."""
    json.loads(path.read_text())


def main() -> None:
    """Print the table; write it with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=108_077)
    parser.add_argument("--regions", type=int, default=50)
    parser.add_argument("--questions", type=int, default=443_757)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        vg, vqa = folder / "vg", folder / "vqa"
        for place in (vg, vqa):
            place.mkdir()
        for image in range(options.images):
            (vg / f"{image}.jpg").touch()
        for image in range(min(options.images, 82_783)):
            (vqa / f"COCO_train2014_{image:012d}.jpg").touch()
        for name, importer, path, media, texts in (
            (
                "visual_genome",
                import_visual_genome,
                make_visual_genome(folder, options.images, options.regions),
                vg,
                options.images * options.regions,
            ),
            (
                "vqa2",
                import_vqa2,
                make_vqa(folder, min(options.images, 82_783), options.questions),
                vqa,
                options.questions,
            ),
        ):
            size = path.stat().st_size / 2**20
            took, memory = measured(run_import, importer, path, media, folder / f"data-{name}")
            whole_took, whole_memory = measured(load_whole, path)
            rows.append(
                {
                    "set": name,
                    "file_mb": round(size),
                    "texts": texts,
                    "import_s": round(took, 1),
                    "import_mb": round(memory),
                    "json_load_s": round(whole_took, 1),
                    "json_load_mb": round(whole_memory),
                }
            )
    print("".join(f"{key:>14}" for key in rows[0]))
    for row in rows:
        print("".join(f"{value!s:>14}" for value in row.values()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
