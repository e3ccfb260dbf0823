"""Answers of a pipeline: a list of dictionaries that Jupyter shows as a table with frames."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipbert.errors import ClipBertError
from clipbert.evaluation.pictures import data_url, frame_strip
from clipbert.sampling.segments import Segment

SHOWN_ROWS = 20
SHOWN_FRAMES = 4

ReadFrames = Callable[[Any], Sequence[NDArray[np.uint8]]]


class Results(list[dict[str, Any]]):
    """The rows that a pipeline returns: a plain list of dictionaries, best first, with an HTML view.

    Frames are read when the table is displayed, not when the pipeline is called. Copies and pickles are plain lists.

    Args:
        rows: the answers.
        asked: what the pipeline was asked about, shown above the table: name to value.
        video: the one video that all rows are about; None where each row has its own, under "video".
        read_frames: returns a few frames of a video, each (H, W, 3) uint8 RGB.
    """

    def __init__(
        self, rows: Iterable[dict[str, Any]], asked: dict[str, Any], video: Any = None, read_frames: ReadFrames = list
    ) -> None:
        super().__init__(rows)
        self._asked, self._video, self._read_frames = asked, video, read_frames

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    def _repr_html_(self) -> str:
        """Return the table of at most `SHOWN_ROWS` rows, with all text escaped and frames as inline JPEG."""
        own_videos = any("video" in row for row in self)
        columns = [name for name in (self[0] if self else {}) if name != "video"]
        head = [*columns, *(["video"] if own_videos else [])]
        lines = [f"<p>{_cell(name)}: <b>{_cell(value)}</b></p>" for name, value in self._asked.items()]
        if self._video is not None:
            lines.append(f"<p>{self._shown_video(self._video)}</p>")
        lines.append(
            "<table><thead><tr>" + "".join(f"<th>{_cell(name)}</th>" for name in head) + "</tr></thead><tbody>"
        )
        for row in self[:SHOWN_ROWS]:
            cells = [_cell(row.get(name)) for name in columns]
            cells += [self._shown_video(row["video"])] if own_videos else []
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        lines.append("</tbody></table>")
        if len(self) > SHOWN_ROWS:
            lines.append(f"<p>{len(self) - SHOWN_ROWS} more rows are not shown.</p>")
        return "\n".join(lines)

    def _shown_video(self, video: Any) -> str:
        """Return the frames of a video as an image, with its path where it has one."""
        file = video.get("video") if isinstance(video, Mapping) else video
        name = _cell(file) if isinstance(file, str | Path) else ""
        if isinstance(video, Mapping) and (segment := Segment.of(video.get("start_s"), video.get("end_s"))):
            name = f"{name}, {segment.describe()}"
        try:
            picture = data_url(frame_strip(self._read_frames(video)))
        except (ClipBertError, OSError, ValueError) as error:  # the file may be gone by now
            return f"{name} <i>no frames: {_cell(str(error).splitlines()[0])}</i>"
        return f'<img src="{picture}" alt="frames of {name or "the video"}"><br>{name}'


def _cell(value: Any) -> str:
    """Return a value as escaped text."""
    if isinstance(value, Image.Image | np.ndarray | bytes):
        return f"({type(value).__name__})"
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))
