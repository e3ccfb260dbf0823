"""`clipbert import NAME`: one command a data set, that hands its official files to the adapter of that name."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

importers = typer.Typer(no_args_is_help=True, help="Turn an official data set into the canonical layout of data/.")

Annotations = Annotated[Path, typer.Argument(help="The official annotation file, or the folder of several.")]
Media = Annotated[Path, typer.Argument(help="The folder of the videos or images, searched to its depth.")]
HoldOut = Annotated[
    list[str] | None,
    typer.Option(metavar="SPLIT=SHARE", help="Take this share of the training media for val or test, by a hash."),
]
Vocabulary = Annotated[Path | None, typer.Option(help="The answers, as {answer: label}; else the commonest ones.")]


class MsrvttSplit(StrEnum):
    """The protocols of MSR-VTT."""

    official = "official"
    train_7k = "7k"
    train_9k = "9k"
    pairs_1ka = "1kA"


class TgifTask(StrEnum):
    """The tasks of TGIF-QA."""

    action = "action"
    transition = "transition"
    frameqa = "frameqa"
    counting = "count"


class Kind(StrEnum):
    """What a row of a table holds."""

    caption = "caption"
    open_qa = "open_qa"
    multiple_choice = "multiple_choice"


@importers.command("msrvtt", epilog="Example: `clipbert import msrvtt videodatainfo.json videos/ --qa val.jsonl`")
def msrvtt(
    annotations: Annotations,
    videos: Media,
    split: Annotated[MsrvttSplit, typer.Option(help="Which videos train and test.")] = MsrvttSplit.official,
    pairs: Annotated[Path | None, typer.Option(help="MSRVTT_JSFUSION_test.csv, for 7k, 9k and 1kA.")] = None,
    qa: Annotated[Path | None, typer.Option(help="MSRVTT-QA questions, one JSON object a line.")] = None,
    mc: Annotated[Path | None, typer.Option(help="The multiple-choice test, see msrvtt_mc.")] = None,
    captions_per_test_video: Annotated[
        int | None, typer.Option(min=1, help="Keep this many captions of a test video; without it, all.")
    ] = None,
    hold_out: HoldOut = None,
) -> None:
    """MSR-VTT: captions by the official, 7k, 9k or 1kA split, and optionally MSRVTT-QA and MSRVTT-MC."""
    from clipbert.data.importers.datasets.msrvtt import import_msrvtt

    source = _source(videos, hold_out)
    _say(import_msrvtt(annotations, source, split.value, pairs, captions_per_test_video, qa, mc))


@importers.command("msrvtt_qa", epilog="Example: `clipbert import msrvtt_qa MSRVTT-QA/ videos/`")
def msrvtt_qa(annotations: Annotations, videos: Media, vocabulary: Vocabulary = None, hold_out: HoldOut = None) -> None:
    """MSRVTT-QA: open questions about MSR-VTT, 1,500 answers."""
    from clipbert.data.importers.datasets.msrvtt_qa import import_msrvtt_qa

    _say(import_msrvtt_qa(annotations, _source(videos, hold_out), vocabulary))


@importers.command("msrvtt_mc", epilog="Example: `clipbert import msrvtt_mc MSR_MC_test.csv videos/`")
def msrvtt_mc(annotations: Annotations, videos: Media) -> None:
    """MSRVTT-MC: which of five captions is the video's own; a test without training."""
    from clipbert.data.importers.datasets.msrvtt_mc import import_msrvtt_mc

    _say(import_msrvtt_mc(annotations, _source(videos)))


@importers.command("msvd_qa", epilog="Example: `clipbert import msvd_qa MSVD-QA/ YouTubeClips/`")
def msvd_qa(
    annotations: Annotations,
    videos: Media,
    mapping: Annotated[Path | None, typer.Option(help="youtube_mapping.txt, if not beside the annotations.")] = None,
    hold_out: HoldOut = None,
) -> None:
    """MSVD-QA: open questions about YouTube clips, 1,000 answers."""
    from clipbert.data.importers.datasets.msvd_qa import import_msvd_qa

    _say(import_msvd_qa(annotations, _source(videos, hold_out), mapping))


@importers.command("tgif_qa", epilog="Example: `clipbert import tgif_qa tgif-qa/dataset/ gifs/ --task action`")
def tgif_qa(
    annotations: Annotations,
    gifs: Media,
    task: Annotated[TgifTask, typer.Option(help="Which of its four data sets.")],
    hold_out: HoldOut = None,
) -> None:
    """TGIF-QA: action and transition (choice of five), frameqa and count (open)."""
    from clipbert.data.importers.datasets.tgif_qa import import_tgif_qa

    _say(import_tgif_qa(annotations, _source(gifs, hold_out), task.value))


@importers.command("didemo", epilog="Example: `clipbert import didemo data/ videos/`")
def didemo(annotations: Annotations, videos: Media, hold_out: HoldOut = None) -> None:
    """DiDeMo: all sentences of a video as one paragraph."""
    from clipbert.data.importers.datasets.didemo import import_didemo

    _say(import_didemo(annotations, _source(videos, hold_out)))


@importers.command("activitynet_captions", epilog="Example: `clipbert import activitynet_captions captions/ videos/`")
def activitynet_captions(annotations: Annotations, videos: Media, hold_out: HoldOut = None) -> None:
    """ActivityNet Captions: all sentences of a video as one paragraph, tested on val_1."""
    from clipbert.data.importers.datasets.activitynet_captions import import_activitynet_captions

    _say(import_activitynet_captions(annotations, _source(videos, hold_out)))


@importers.command("activitynet_qa", epilog="Example: `clipbert import activitynet_qa dataset/ videos/`")
def activitynet_qa(annotations: Annotations, videos: Media, hold_out: HoldOut = None) -> None:
    """ActivityNet-QA: open questions about long videos, 1,000 answers."""
    from clipbert.data.importers.datasets.activitynet_qa import import_activitynet_qa

    _say(import_activitynet_qa(annotations, _source(videos, hold_out)))


@importers.command("coco_captions", epilog="Example: `clipbert import coco_captions dataset_coco.json images/`")
def coco_captions(annotations: Annotations, images: Media, hold_out: HoldOut = None) -> None:
    """COCO Captions, by Karpathy's split or the official one."""
    from clipbert.data.importers.datasets.coco_captions import import_coco_captions

    _say(import_coco_captions(annotations, _source(images, hold_out)))


@importers.command("flickr8k", epilog="Example: `clipbert import flickr8k Flickr8k_text/ Flicker8k_Dataset/`")
def flickr8k(annotations: Annotations, images: Media, hold_out: HoldOut = None) -> None:
    """Flickr8k: 8,000 images with five captions each."""
    from clipbert.data.importers.datasets.flickr8k import import_flickr8k

    _say(import_flickr8k(annotations, _source(images, hold_out)))


@importers.command("visual_genome", epilog="Example: `clipbert import visual_genome region_descriptions.json images/`")
def visual_genome(
    annotations: Annotations,
    images: Media,
    regions_per_image: Annotated[
        int | None, typer.Option(min=1, help="Keep this many phrases of an image; without it, all.")
    ] = None,
    hold_out: HoldOut = None,
) -> None:
    """Visual Genome: the descriptions of image regions, for pretraining."""
    from clipbert.data.importers.datasets.visual_genome import import_visual_genome

    _say(import_visual_genome(annotations, _source(images, hold_out), regions_per_image))


@importers.command("vqa2", epilog="Example: `clipbert import vqa2 vqa/ coco/ --hold-out test=0.05`")
def vqa2(annotations: Annotations, images: Media, hold_out: HoldOut = None) -> None:
    """VQA 2.0: open questions about images with soft scores, 3,129 answers."""
    from clipbert.data.importers.datasets.vqa2 import import_vqa2

    _say(import_vqa2(annotations, _source(images, hold_out)))


@importers.command(
    "table", epilog="Example: `clipbert import table clips.csv clips/ --map text=caption,media=file --map split=fold`"
)
def table(
    file: Annotated[Path, typer.Argument(help="A .csv, .tsv, .jsonl or .parquet with one text a row.")],
    media: Media,
    kind: Annotated[Kind, typer.Option(help="What a row holds.")] = Kind.caption,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="KEY=COLUMN,...", help="Columns that are named otherwise.")
    ] = None,
    split_fractions: Annotated[
        list[str] | None, typer.Option(metavar="SPLIT=SHARE", help="Draw the splits by a hash of the media's names.")
    ] = None,
    hold_out: HoldOut = None,
) -> None:
    """Any table of captions, questions or choices, by a map of its columns."""
    from clipbert.data.importers.datasets.table import import_table, read_map
    from clipbert.data.importers.splits import read_fractions

    fractions = read_fractions(split_fractions or [], "--split-fractions")
    _say(import_table(file, _source(media, hold_out), kind.value, read_map(columns or []), fractions))


def _source(media: Path, hold_out: list[str] | None = None) -> Any:
    """The media folder and the project's data/."""
    from clipbert.console import console
    from clipbert.data.importers.base import Source
    from clipbert.data.importers.splits import read_fractions
    from clipbert.files.linked_folders import writable_data
    from clipbert.project import Project

    data = Project(Path.cwd()).data
    if data.is_symlink():
        message = f"data is a link to {data.resolve()}: DVC cannot version it (docs/tutorial/own-data.md)"
        console.print(message, markup=False)
    return Source(media, writable_data(data), read_fractions(hold_out or [], "--hold-out"))


def _say(summary: Any) -> None:
    from clipbert.console import console

    for line in summary.lines():
        console.print(line, markup=False)
