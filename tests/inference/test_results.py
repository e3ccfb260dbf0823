"""What Jupyter shows of a pipeline's answers: the data stays a list, the text is escaped, the frames are JPEG."""

import base64
import copy
import io
import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from clipbert.errors import ClipBertError
from clipbert.inference.results import SHOWN_ROWS, Results

ROWS = [{"answer": "<b>red</b> & blue", "score": 0.987654321}, {"answer": "two", "score": 0.01}]


def two_frames(video: object) -> list[np.ndarray]:
    return [np.full((48, 64, 3), shade, dtype=np.uint8) for shade in (0, 255)]


def test_the_rows_are_a_plain_list_for_everything_else() -> None:
    found = Results(ROWS, {"question": "what?"}, "a.mp4", two_frames)
    assert found == ROWS
    assert repr(found) == repr(ROWS)
    assert json.loads(json.dumps(found)) == ROWS
    for copied in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert type(copied) is list
        assert copied == ROWS


def test_all_text_is_escaped() -> None:
    page = Results(ROWS, {"question": "<script>"}, "<img src=x>.mp4", two_frames)._repr_html_()
    assert "&lt;b&gt;red&lt;/b&gt; &amp; blue" in page
    assert "question: <b>&lt;script&gt;</b>" in page
    assert "&lt;img src=x&gt;.mp4" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<td>0.9877</td>" in page


def test_the_one_video_is_shown_once_as_jpeg() -> None:
    page = Results(ROWS, {}, "a.mp4", two_frames)._repr_html_()
    (picture,) = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        assert (image.format, image.size) == ("JPEG", (128 + 2 + 128, 96))


def test_each_row_with_a_video_of_its_own_shows_it() -> None:
    rows = [{"index": 1, "video": "b.mp4", "score": 2.0}, {"index": 0, "video": b"bytes", "score": 1.0}]
    page = Results(rows, {"text": "a red square"}, read_frames=two_frames)._repr_html_()
    assert page.count("<img ") == 2
    assert "bytes" not in page
    assert "<th>index</th><th>score</th><th>video</th>" in page


@pytest.mark.parametrize("error", [ClipBertError("gone.mp4: not found"), ValueError("no frames"), OSError("no disk")])
def test_a_video_that_cannot_be_read_any_more_leaves_the_answers(error: Exception) -> None:
    def gone(video: object) -> list[np.ndarray]:
        raise error

    page = Results(ROWS, {}, "gone.mp4", gone)._repr_html_()
    assert f"<i>no frames: {error}</i>" in page
    assert "two" in page


def test_a_long_list_is_cut_and_says_so() -> None:
    rows = [{"answer": f"answer {number}", "score": 0.0} for number in range(SHOWN_ROWS + 3)]
    page = Results(rows, {}, "a.mp4", two_frames)._repr_html_()
    assert f"answer {SHOWN_ROWS - 1}<" in page
    assert f"answer {SHOWN_ROWS}<" not in page
    assert "3 more rows are not shown" in page
