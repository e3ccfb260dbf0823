"""Sections `ingest` and `validate` of params.yaml."""

from typing import Annotated, Literal

from clipbert.config.models import Field, model_validator
from clipbert.config.tasks import Fraction, Section

Seconds = Annotated[float, Field(gt=0)]


class IngestParams(Section):
    """Probing of the files of `data/`."""

    timeout_s: Seconds = Field(20.0, description="time limit in seconds of probing one file; larger files get more")
    max_worker_mb: int = Field(4096, ge=256, description="memory limit of a probing process in MiB")
    verify: Literal["never", "suspicious", "always"] = Field(
        "always", description="which files are decoded sequentially to check decord's frames"
    )
    min_duration_s: float = Field(0.0, ge=0, description="minimum duration; shorter videos are quarantined (too_short)")
    max_duration_s: Seconds = Field(14_400.0, description="maximum duration; longer videos are quarantined (too_long)")
    max_megapixels: float = Field(100.0, gt=0, description="larger frames are quarantined (too_large)")
    max_aspect: float = Field(
        20.0, ge=1, description="long side over short side; above it: quarantined (extreme_aspect)"
    )
    duplicates: Literal["quarantine", "keep"] = Field(
        "quarantine", description="treatment of the second file with the same bytes"
    )
    max_quarantined_fraction: Fraction = Field(
        0.05, description="above this fraction of quarantined files the stage fails"
    )
    num_workers: int | None = Field(None, ge=1, description="number of probing processes; null: one per core")


class InboxParams(Section):
    """New media and annotation rows, which `clipbert inbox` checks and adds to `data/`."""

    source: str = Field(
        "inbox",
        min_length=1,
        description="where they arrive: a folder, or an address such as s3://bucket/new; files of a folder are moved "
        "from it, files of an address stay there",
    )
    refused: str = Field("refused", min_length=1, description="folder for refused files, with the reasons")
    stable_s: float = Field(
        60.0, ge=0, description="seconds without a change after which a file counts as completely written"
    )
    max_wait_h: float = Field(
        24.0,
        gt=0,
        description="hours that a row waits for its media, or a media file for a text; then it is refused",
    )
    val: Fraction = Field(0.1, description="fraction of the new media without a split that go to val, by a hash")
    test: Fraction = Field(0.1, description="fraction of the new media without a split that go to test, by a hash")
    branch: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$",
        description="git branch of the commits of data.dvc; null: the branch that is checked out",
    )
    push: bool = Field(False, description="send the new data to DVC's default remote after each commit")

    @model_validator(mode="after")
    def _fractions_fit(self) -> "InboxParams":
        if self.val + self.test > 1:
            raise ValueError(f"inbox.val + inbox.test = {self.val + self.test:g}: expected at most 1")
        return self


Severity = Literal["fail", "warn"]


class SeverityParams(Section):
    """Severity of each check: `fail` fails the stage, `warn` prints a warning."""

    schema_: Severity = Field("fail", alias="schema", description="required values are present and of a known kind")
    ids: Severity = Field("fail", description="media files are unique, ids are unique among texts of a kind")
    media_exists: Severity = Field("fail", description="every text's media is in the manifest")
    split_sizes: Severity = Field("fail", description="splits are valid and have enough media")
    split_by_media: Severity = Field("fail", description="all texts of a media file are in one split")
    split_by_file: Severity = Field("fail", description="no file is in two splits under two names")
    near_duplicates: Severity = Field(
        "fail", description="few val and test videos are near-duplicates of another split"
    )
    media_values: Severity = Field("fail", description="media have a size, a frame rate, a duration and a frame")
    text_length: Severity = Field("fail", description="texts are at most max_text_chars long")
    text_empty: Severity = Field("fail", description="texts have a letter or a digit")
    text_duplicates: Severity = Field("warn", description="few captions of val and test are in another split too")
    text_placeholder: Severity = Field("warn", description="no text is a placeholder: nan, None, null, N/A")
    text_truncated: Severity = Field("warn", description="few texts are truncated at model.max_text_length")
    text_identical: Severity = Field("warn", description="few texts are the same once truncated")
    train_size: Severity = Field("warn", description="each kind of texts has enough training media")
    answers: Severity = Field("fail", description="questions have an answer, which is one of the options")
    answer_coverage: Severity = Field("warn", description="answers of val and test are in the answer vocabulary")
    class_balance: Severity = Field("warn", description="no answer is that of most questions")
    durations: Severity = Field("warn", description="videos are neither very short nor very long")
    frame_rates: Severity = Field("warn", description="videos have a usual frame rate")
    resolutions: Severity = Field("warn", description="media have a minimum size")
    black: Severity = Field("warn", description="videos and images are not black")
    frozen: Severity = Field("warn", description="videos contain motion")
    damaged: Severity = Field("warn", description="files decode without damage")
    remarks: Severity = Field(
        "warn", description="frames equal what a player shows: not interlaced, not HDR, of one size"
    )
    segments: Severity = Field("fail", description="segments lie inside their videos")
    segment_frames: Severity = Field("fail", description="segments hold a candidate frame")
    segment_clips: Severity = Field("warn", description="segments hold enough candidate frames for a clip")
    drift: Severity = Field("warn", description="the data is similar to the data that passed last")


class DriftParams(Section):
    """Limits of the differences from the last manifest that passed."""

    max_new: Fraction = Field(0.5, description="maximum fraction of new media")
    max_removed: Fraction = Field(0.1, description="maximum fraction of the earlier media that were removed")
    max_changed: Fraction = Field(0.05, description="maximum fraction of the kept media with other bytes")
    max_ks: Fraction = Field(0.2, description="maximum Kolmogorov-Smirnov statistic of durations and text lengths")


class ValidateParams(Section):
    """Checks of the manifest, which later stages wait for."""

    max_text_chars: int = Field(2000, ge=1, description="maximum length of a caption or question in characters")
    min_videos_per_split: int = Field(1, ge=0, description="minimum number of media in each of train, val and test")
    min_train_videos: int = Field(400, ge=0, description="minimum number of training media for each kind of texts")
    max_truncated: Fraction = Field(0.05, description="maximum fraction of truncated texts per kind and split")
    max_identical: Fraction = Field(0.01, description="maximum fraction of texts equal to another one once truncated")
    max_hash_distance: float = Field(
        6.0, ge=0, le=7, description="maximum distance of near-duplicates: bits of 64 of their perceptual hashes"
    )
    max_near_duplicates: Fraction = Field(
        0.05, description="maximum fraction of val and test media that are near-duplicates of another split"
    )
    max_duplicate_texts: Fraction = Field(
        0.05, description="maximum fraction of val and test captions that are in another split too"
    )
    min_answer_coverage: Fraction = Field(
        0.7, description="minimum fraction of val and test questions with an answer of the vocabulary"
    )
    max_answer_share: Fraction = Field(0.5, description="maximum fraction of the most frequent answer in each split")
    min_duration_s: float = Field(0.5, ge=0, description="minimum usual duration of a video in seconds")
    max_duration_s: Seconds = Field(3600.0, description="maximum usual duration of a video in seconds")
    min_fps: float = Field(1.0, ge=0, description="minimum usual frame rate")
    max_fps: float = Field(120.0, gt=0, description="maximum usual frame rate")
    min_side: int = Field(32, ge=1, description="minimum usual short side in pixels")
    min_brightness: float = Field(8.0, ge=0, le=255, description="minimum mean luma, 0 to 255; darker media are black")
    min_motion: float = Field(
        0.05, ge=0, le=255, description="minimum mean change between pictures, 0 to 255; less is frozen"
    )
    max_odd: Fraction = Field(0.1, description="maximum fraction of media that are unusual, black, frozen or damaged")
    drift: DriftParams = DriftParams()
    severity: SeverityParams = SeverityParams()
