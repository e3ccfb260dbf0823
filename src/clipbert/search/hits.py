"""What a search returns, and what an index says about itself."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Hit:
    """Moment of a video that a search found.

    Attributes:
        video_id: name of the video in the index: its path below the indexed folder, or that of the manifest.
        path: the file.
        start_s, end_s: the clip in seconds from the start of the video; both 0 for an image.
        score: for a text, the score of `clipbert match`: the cross-encoder's log odds plus the dual encoder's
            similarity, or the similarity alone for a video that was not reranked. For an example, the cosine.
        metadata: columns of the manifest or of a CSV.
        reranked: whether the cross-encoder scored this hit; the others follow those that it did.
    """

    video_id: str
    path: Path
    start_s: float
    end_s: float
    score: float
    metadata: dict[str, Any] = field(default_factory=dict)
    reranked: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the hit as values of JSON."""
        return asdict(self) | {"path": str(self.path)}


@dataclass(frozen=True)
class IndexInfo:
    """Contents of an index.

    Attributes:
        model: SHA-256 over the files of the model.
        model_name: the model's folder or version when the index was made.
        videos, clips: that a search can find.
        dimension: of the vectors.
        bytes: of the files of the index.
        segments: number of immutable parts.
        deleted: removed or replaced videos whose bytes are still there.
        failed: files that could not be indexed.
        backend: library and structure of the vectors.
        clip_s: longest clip in seconds.
        tokens: whether the visual tokens are stored, so that a search decodes no file.
        keys: metadata columns.
    """

    model: str
    model_name: str
    videos: int
    clips: int
    dimension: int
    bytes: int
    segments: int
    deleted: int
    failed: int
    backend: str
    clip_s: float
    tokens: bool
    keys: tuple[str, ...]
