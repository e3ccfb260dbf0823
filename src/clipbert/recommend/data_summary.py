"""The manifest in numbers, for a recommendation: texts and media of each task, durations, script, segments."""

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clipbert.config.schema import FramesParams
from clipbert.config.tasks import task_names
from clipbert.data.manifest import read_texts, read_videos
from clipbert.data.synthetic.sample_set import is_sample_media
from clipbert.data.validation.segments import ClipSettings, has_segments, measure_segments
from clipbert.errors import ClipBertError
from clipbert.sampling.clips import candidate_times
from clipbert.tasks import task_class
from clipbert.tasks.examples import ITEM

SPLITS = ("train", "val", "test")
MAX_LETTERS = 1_000_000  # that are looked at to tell the script


@dataclass(frozen=True)
class TaskData:
    """Texts of the manifest that a task reads.

    Attributes:
        task: its name.
        items: {split: videos, images and segments with such texts}.
        texts: {split: such texts}.
    """

    task: str
    items: dict[str, int]
    texts: dict[str, int]

    @property
    def missing_splits(self) -> list[str]:
        """The splits without a text."""
        return [split for split in SPLITS if self.texts[split] == 0]


@dataclass(frozen=True)
class DataSummary:
    """The manifest in numbers.

    Attributes:
        videos, images: numbers of usable media.
        media: {split: media}.
        duration_s: the shortest, the median and the longest duration of the videos; None without videos.
        tasks: the tasks that have texts in the training split.
        incomplete: the tasks that have texts, but not in the training split.
        latin_share: share of Latin letters among the letters of the training texts; 1 if they have no letters.
        has_segments: whether a text is about a part of its video.
        sample_set: whether the data are those of `clipbert sample-data`.
    """

    videos: int
    images: int
    media: dict[str, int]
    duration_s: tuple[float, float, float] | None
    tasks: list[TaskData]
    incomplete: list[TaskData]
    latin_share: float
    has_segments: bool
    sample_set: bool


class ManifestData:
    """The tables of a manifest.

    Raises:
        ClipBertError: the data or the manifest is missing, the manifest is damaged, or it has no usable media.
    """

    def __init__(self, data: Path, manifest: Path) -> None:
        if not data.exists() and not manifest.exists():
            raise ClipBertError(
                f"{data}: not found. Import videos with their texts first, for example `clipbert import table "
                "captions.csv clips/` (docs/tutorial/own-data.md), or make the sample set with `clipbert sample-data`; "
                "then run `clipbert ingest` and `clipbert recommend`."
            )
        if not manifest.exists():
            raise ClipBertError(f"{manifest}: not found. Run `clipbert ingest` first, then `clipbert recommend`.")
        self.videos, self.texts = read_videos(manifest), read_texts(manifest)
        if self.videos.empty or self.texts.empty:
            raise ClipBertError(
                f"{manifest}: has {len(self.videos)} usable media and {len(self.texts)} texts. Add videos and texts to "
                f"{data} (docs/tutorial/own-data.md) and run `clipbert ingest`."
            )

    def summary(self) -> DataSummary:
        """Return the manifest in numbers."""
        videos, texts = self.videos, self.texts
        is_video = videos["kind"] == "video"
        durations = videos.loc[is_video, "duration_s"]
        names = task_names("tasks_run")
        readers = [task_class(name).examples_class for name in names]
        image_kinds = {examples.kind for examples in readers if examples.media_kind == "image"}
        tasks = [_task_data(name, texts, image_kinds) for name in names]
        return DataSummary(
            videos=int(is_video.sum()),
            images=int((~is_video).sum()),
            media={split: int((videos["split"] == split).sum()) for split in SPLITS},
            duration_s=(float(durations.min()), float(durations.median()), float(durations.max()))
            if is_video.any()
            else None,
            tasks=[task for task in tasks if task.texts["train"]],
            incomplete=[task for task in tasks if not task.texts["train"] and any(task.texts.values())],
            latin_share=_latin_share(texts.loc[texts["split"] == "train", "text"]),
            has_segments=has_segments(texts),
            sample_set=all(map(is_sample_media, videos["media"], videos["width"], videos["height"])),
        )

    @property
    def megapixels(self) -> float:
        """Pixels of all frames of all files, in millions."""
        videos = self.videos
        frames = videos["num_frames"].astype("float64").fillna(videos["duration_s"] * videos["fps"]).fillna(1.0)
        return float((frames * videos["width"] * videos["height"]).sum() / 1e6)

    def candidate_frames(self, params: FramesParams) -> int:
        """Return how many frames the frame cache will hold."""
        durations = self.videos["duration_s"].where(self.videos["kind"] == "video", 0.0)
        return sum(len(candidate_times(seconds, params.fps, params.max_frames)) for seconds in durations)

    def frames_for_segments(self, params: FramesParams, frames_per_clip: int) -> tuple[float, int]:
        """Return the `frames.fps` and `frames.max_frames` with which every segment has the frames of a clip."""
        if not has_segments(self.texts):
            return params.fps, params.max_frames
        settings = ClipSettings(params.fps, params.max_frames, frames_per_clip)
        _, found = measure_segments(self.texts, self.videos, settings)
        return found.fps, found.max_frames


def _task_data(name: str, texts: pd.DataFrame, image_kinds: set[str]) -> TaskData:
    """Return the texts of a task; those about the other kind of media do not count where another task reads them."""
    examples = task_class(name).examples_class
    rows, _ = examples.texts_of_task(texts)
    if examples.kind in image_kinds:
        rows = rows[rows["media_kind"] == examples.media_kind]
    by_split = {split: rows[rows["split"] == split] for split in SPLITS}
    item = [column for column in ITEM if column in rows]
    return TaskData(
        name,
        {split: len(found.drop_duplicates(item)) for split, found in by_split.items()},
        {split: len(found) for split, found in by_split.items()},
    )


def _latin_share(texts: pd.Series) -> float:
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(text)
        if letters.total() > MAX_LETTERS:
            break
    counts = {letter: count for letter, count in letters.items() if letter.isalpha()}
    latin = sum(count for letter, count in counts.items() if unicodedata.name(letter, "").startswith("LATIN"))
    return latin / sum(counts.values()) if counts else 1.0
