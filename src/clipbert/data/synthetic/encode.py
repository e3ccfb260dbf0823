"""Video encoding with bytes that depend on the pixels only, not on CPU, clock or number of cores."""

import io
from dataclasses import dataclass

import av
import numpy as np
from av.codec.context import Flags
from numpy.typing import NDArray

from clipbert.data.synthetic.scene import FPS


@dataclass(frozen=True)
class Format:
    """Format of a file: muxer, encoder and the encoder's options."""

    extension: str
    container: str
    codec: str
    options: dict[str, str]


X264 = {
    "preset": "veryfast",
    "qp": "22",
    "threads": "1",
    "x264-params": "cpu-independent=1:bframes=0:mbtree=0:aq-mode=0:ipratio=1:scenecut=0:weightp=0:keyint=16",
}
VPX = {
    "deadline": "good",  # realtime adapts to the clock
    "cpu-used": "4",
    "crf": "16",
    "qmin": "16",
    "qmax": "16",
    "lag-in-frames": "0",
    "threads": "1",
}
MPEG4 = {"qmin": "4", "qmax": "4", "dct": "int", "idct": "simple", "threads": "1", "bf": "0"}

FORMATS = (
    Format(".mp4", "mp4", "libx264", X264),
    Format(".webm", "webm", "libvpx", VPX),
    Format(".mov", "mov", "libx264", X264),
    Format(".avi", "avi", "mpeg4", MPEG4),
    Format(".webm", "webm", "libvpx-vp9", VPX),
)


def encode(video: NDArray[np.uint8], form: Format) -> bytes:
    """Encode packed yuv420p frames, (frames, height * 3 / 2, width) uint8, and return the file."""
    file = io.BytesIO()
    height, width = video.shape[1] * 2 // 3, video.shape[2]
    with av.open(file, "w", format=form.container, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(form.codec, rate=FPS, options=form.options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.flags |= Flags.bitexact
        for index, picture in enumerate(video):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
