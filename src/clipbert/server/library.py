"""The search index of the server, and the media of its videos."""

import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipbert.errors import ClipBertError
from clipbert.files.byte_cache import ByteCache
from clipbert.search.index_file import INDEX_FILE
from clipbert.server.errors import ApiError

THUMBNAIL_HEIGHT = 270
KEPT_THUMBNAILS = 32 * 10**6  # bytes
NO_INDEX = "This server has no search index. Make one in its project: `clipbert index build`. No restart is needed."


class Library:
    """Index that is opened with the first search, and again after it has changed; safe in several threads.

    Args:
        folder: of the index; None: the server has none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._opened: tuple[tuple[int, int], Any] | None = None
        self._lock = threading.Lock()
        self._thumbnails = ByteCache(KEPT_THUMBNAILS)

    @property
    def exists(self) -> bool:
        """Whether there is an index now."""
        return self._folder is not None and (self._folder / INDEX_FILE).is_file()

    def index(self) -> Any:
        """Return the `SearchIndex` as it is now.

        Raises:
            ApiError: 404 for a missing or damaged index.
        """
        if self._folder is None or not self.exists:
            raise ApiError(404, "no_index", NO_INDEX)
        from clipbert.search.index import SearchIndex

        with self._lock:
            try:
                found = (self._folder / INDEX_FILE).stat()
                stamp = (found.st_mtime_ns, found.st_ino)
                if self._opened is None or self._opened[0] != stamp:
                    self._opened = stamp, SearchIndex.open(self._folder)
            except (ClipBertError, OSError) as error:
                raise ApiError(404, "no_index", f"The search index cannot be used: {error}") from error
            return self._opened[1]

    def search(self, pipeline: Any, query: Mapping[str, Any]) -> tuple[list[Any], int]:
        """Return the hits of a search, and how many videos were searched.

        Args:
            query: arguments of `SearchIndex.search`.

        Raises:
            ApiError: 404 without an index, 409 for one of another model, 422 for a wrong argument.
        """
        from clipbert.model.weights.init_from import digest

        index = self.index()
        try:
            hits = index.search(pipeline, **query)
        except ClipBertError as error:
            if digest(Path(pipeline.folder)) != index.state.settings.model:
                raise ApiError(
                    409,
                    "other_model",
                    f"The search index was made with another model ({index.state.model_name}) than the one that this "
                    "server uses. Make it again with `clipbert index build --replace`.",
                ) from error
            raise ApiError(422, "invalid", str(error)) from error
        return hits, len(index)

    def file(self, video_id: str) -> Path:
        """Return the file of a video of the index.

        Raises:
            ApiError: 404 where the index has no such video, or its file is gone.
        """
        import pyarrow.compute as pc

        from clipbert.search.build import resolved

        index = self.index()
        for segment in index.segments:
            row = pc.index(segment.videos.column("video_id"), video_id).as_py()
            if row >= 0 and segment.live_videos[row]:
                path = resolved(index.folder, segment.video(row)["path"])
                if path.is_file():
                    return path
        raise ApiError(404, "not_found", f"video_id {video_id!r:.100} is not a video of the search index, or is gone.")

    def thumbnail(self, video_id: str, at_s: float, pipeline: Any) -> bytes:
        """Return the frame of a video at a time as JPEG.

        Raises:
            ApiError: 404 for a video that is not in the index, 422 for one that cannot be decoded.
        """
        import numpy as np
        from PIL import Image

        from clipbert.sampling.video_input import decode_known

        key = (video_id, round(at_s, 2))
        kept: bytes | None = self._thumbnails.get(key)
        if kept is not None:
            return kept
        try:
            frames = decode_known(self.file(video_id), pipeline.frames).frames
        except ClipBertError as error:
            raise ApiError(422, "not_a_video", f"{video_id} cannot be decoded.") from error
        image = Image.fromarray(frames.images[int(np.abs(frames.times - at_s).argmin())])
        image.thumbnail((4 * THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT))
        written = io.BytesIO()
        image.save(written, "JPEG", quality=82)
        self._thumbnails.put(key, written.getvalue(), len(written.getvalue()))
        return written.getvalue()
