"""Answers of the API, as OpenAPI describes them."""

from dataclasses import dataclass


@dataclass
class ModelInfo:
    """Model that answered."""

    name: str
    task: str


@dataclass
class VideoInfo:
    """Video that the answer is about; `duration_s` is 0 for a picture, and where the container does not say."""

    name: str
    width: int
    height: int
    duration_s: float


@dataclass
class ShownFrame:
    """A frame that the model saw: its time in the file, and the picture as a `data:` URL."""

    time_s: float
    image: str


@dataclass
class ExplainedClip:
    """A clip: its score alone, its frames, and the relevance (0 to 1) of each grid cell, row by row."""

    score: float
    frames: list[ShownFrame]
    cells: list[list[float]]


@dataclass
class ExplainedWord:
    """A word, with its relevance, or in a caption its probability."""

    word: str
    relevance: float


@dataclass
class Explained:
    """Why: `about` is the explained answer or text; frames fill `shown_height` and `shown_width` of the grid."""

    about: str
    clips: list[ExplainedClip]
    words: list[ExplainedWord]
    shown_height: float
    shown_width: float


@dataclass
class About:
    """What all answers have: remarks about input unlike the training data, the video, the model, the explanation."""

    remarks: list[str]
    video: VideoInfo
    model: ModelInfo
    explanation: Explained | None


@dataclass
class Answer:
    """An answer with the model's probability, and the calibrated one if the model has a calibration."""

    answer: str
    score: float
    confidence: float | None


@dataclass
class AskAnswer(About):
    """Answers to a question, most probable first."""

    question: str
    answers: list[Answer]
    calibrated: bool


@dataclass
class Option:
    """An option with its position in the request."""

    option: int
    answer: str
    score: float
    confidence: float | None


@dataclass
class ChooseAnswer(About):
    """Options, most probable first."""

    question: str
    answers: list[Option]
    calibrated: bool


@dataclass
class CaptionAnswer(About):
    """A sentence, and its log-probability."""

    caption: str
    score: float


@dataclass
class MatchedText:
    """A text with its position in the request."""

    index: int
    text: str
    score: float


@dataclass
class MatchAnswer(About):
    """Texts, best first; `score_kind` is `log_odds` (retrieval) or `probability` (a pretrained model)."""

    texts: list[MatchedText]
    score_kind: str


@dataclass
class SearchHit:
    """Moment of a video, in seconds (both 0 for a picture), with the addresses of the video and of a frame."""

    video_id: str
    start_s: float
    end_s: float
    score: float
    reranked: bool
    metadata: dict[str, str | float | int | bool | None]
    media: str
    thumbnail: str


@dataclass
class SearchAnswer:
    """Hits, best first; how many videos were searched, and with which model."""

    hits: list[SearchHit]
    videos: int
    model: str


@dataclass
class LimitsInfo:
    """Limits of the server."""

    upload_mb: float
    upload_s: float
    duration_s: float
    megapixels: float
    concurrent: int
    request_s: float


@dataclass
class ServerInfo:
    """What this server can do: the model of each route, its limits, and whether it searches a library."""

    version: str
    ready: bool
    models: dict[str, str]
    limits: LimitsInfo
    search: bool


@dataclass
class Health:
    """State of the server."""

    status: str
