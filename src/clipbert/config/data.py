"""Sections `ingest` and `validate` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from clipbert.config.tasks import Fraction, Section

Seconds = Annotated[float, Field(gt=0)]


class IngestParams(Section):
    """How `data/` is probed."""

    timeout_s: Seconds = Field(
        20.0, description="one file's probe is killed after this many seconds, more for large ones"
    )
    max_worker_mb: int = Field(4096, ge=256, description="a probing process that holds more memory is killed")
    verify: Literal["never", "suspicious", "always"] = Field(
        "always", description="which files are decoded whole, in sequence, to prove what decord returns"
    )
    min_duration_s: float = Field(0.0, ge=0, description="shorter videos are quarantined (too_short)")
    max_duration_s: Seconds = Field(14_400.0, description="longer videos are quarantined (too_long)")
    max_megapixels: float = Field(100.0, gt=0, description="larger frames are quarantined, undecoded (too_large)")
    max_aspect: float = Field(20.0, ge=1, description="long side over short side; above: quarantined (extreme_aspect)")
    duplicates: Literal["quarantine", "keep"] = Field(
        "quarantine", description="what happens to the second file with the same bytes"
    )
    max_quarantined_fraction: Fraction = Field(0.05, description="more unreadable files than this fail the stage")
    num_workers: int | None = Field(None, ge=1, description="probing processes; null: one per core")


Severity = Literal["fail", "warn"]


class SeverityParams(Section):
    """What a failing check does: `fail` closes the gate, `warn` is said and shown."""

    schema_: Severity = Field("fail", alias="schema", description="required values are there and of a known kind")
    ids: Severity = Field("fail", description="a media file stands once, a text's id is unique in its kind")
    media_exists: Severity = Field("fail", description="every text's media is in the manifest")
    split_sizes: Severity = Field("fail", description="splits are known and have enough media")
    split_by_media: Severity = Field("fail", description="all texts of a media file are in one split")
    split_by_file: Severity = Field("fail", description="no file lies in two splits under two names")
    near_duplicates: Severity = Field("fail", description="few videos of val and test look like one of another split")
    media_values: Severity = Field("fail", description="media have a size, a frame rate, a duration, a frame")
    text_length: Severity = Field("fail", description="texts are not longer than max_text_chars")
    text_empty: Severity = Field("fail", description="texts have a letter or a digit of some language")
    text_duplicates: Severity = Field("warn", description="few captions of val and test stand in another split too")
    text_placeholder: Severity = Field("warn", description="no text is the mark of an empty cell: nan, None, null, N/A")
    text_truncated: Severity = Field("warn", description="few texts are cut at model.max_text_length")
    text_identical: Severity = Field("warn", description="few texts are the same after that")
    train_size: Severity = Field("warn", description="each kind of texts has enough media to learn from")
    answers: Severity = Field("fail", description="questions have an answer, and it is one of the options")
    answer_coverage: Severity = Field("warn", description="answers of val and test are among the trained ones")
    class_balance: Severity = Field("warn", description="no answer is that of most questions")
    durations: Severity = Field("warn", description="videos are neither very short nor very long")
    frame_rates: Severity = Field("warn", description="videos have a usual frame rate")
    resolutions: Severity = Field("warn", description="media are not tiny")
    black: Severity = Field("warn", description="videos and images are not black")
    frozen: Severity = Field("warn", description="videos move")
    damaged: Severity = Field("warn", description="files decode without damage")
    remarks: Severity = Field(
        "warn", description="frames are what a player shows: not interlaced, HDR, of several sizes"
    )
    drift: Severity = Field("warn", description="the data is like that which passed last")


class DriftParams(Section):
    """How far the data may be from the manifest that passed last."""

    max_new: Fraction = Field(0.5, description="share of media that were not there")
    max_removed: Fraction = Field(0.1, description="share of the earlier media that are gone")
    max_changed: Fraction = Field(0.05, description="share of the kept media with other bytes")
    max_ks: Fraction = Field(0.2, description="largest gap between cumulative shares (durations, text lengths)")


class ValidateParams(Section):
    """The gate between the manifest and everything after it."""

    max_text_chars: int = Field(2000, ge=1, description="a longer caption or question is an error in the data")
    min_videos_per_split: int = Field(1, ge=0, description="fewer media in train, val or test fail the gate")
    min_train_videos: int = Field(
        400, ge=0, description="a kind of texts with fewer training media is too small to learn from"
    )
    max_truncated: Fraction = Field(0.05, description="share of texts, of a kind and split, that may be cut")
    max_identical: Fraction = Field(0.01, description="share of texts that may be the same as another once cut")
    max_hash_distance: float = Field(
        6.0, ge=0, le=7, description="bits of 64; videos whose looks differ by no more are near-duplicates"
    )
    max_near_duplicates: Fraction = Field(
        0.05, description="share of val and test media that may look like media of another split"
    )
    max_duplicate_texts: Fraction = Field(
        0.05, description="share of val and test captions that may stand in another split, word for word"
    )
    min_answer_coverage: Fraction = Field(
        0.7, description="share of val and test questions whose answer is among the trained ones"
    )
    max_answer_share: Fraction = Field(0.5, description="of the most frequent answer, in each split")
    min_duration_s: float = Field(0.5, ge=0, description="a shorter video is odd")
    max_duration_s: Seconds = Field(3600.0, description="a longer video is odd")
    min_fps: float = Field(1.0, ge=0, description="a slower video is odd")
    max_fps: float = Field(120.0, gt=0, description="a faster video is odd")
    min_side: int = Field(32, ge=1, description="pixels of the short side; a smaller video or image is odd")
    min_brightness: float = Field(8.0, ge=0, le=255, description="mean luma, 0 to 255; darker is black")
    min_motion: float = Field(0.05, ge=0, le=255, description="mean change between pictures, 0 to 255; less is frozen")
    max_odd: Fraction = Field(0.1, description="share of media that may be odd, black, frozen or damaged")
    drift: DriftParams = DriftParams()
    severity: SeverityParams = SeverityParams()
