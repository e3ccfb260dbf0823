"""Small pictures of videos for HTML pages: frames side by side, embedded as JPEG."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STRIP_HEIGHT = 96
GAP = 2  # pixels between two frames


def frame_strip(images: Sequence[NDArray[np.uint8] | Image.Image]) -> Image.Image:
    """Return frames side by side, `STRIP_HEIGHT` pixels high, each as wide as the first one.

    Args:
        images: at least one, each (H, W, 3) uint8 RGB or a PIL image.
    """
    frames = [image if isinstance(image, Image.Image) else Image.fromarray(image) for image in images]
    width = max(1, round(frames[0].width * STRIP_HEIGHT / frames[0].height))
    canvas = Image.new("RGB", (len(frames) * (width + GAP) - GAP, STRIP_HEIGHT), "white")
    for index, frame in enumerate(frames):
        canvas.paste(frame.convert("RGB").resize((width, STRIP_HEIGHT)), (index * (width + GAP), 0))
    return canvas


def data_url(image: Image.Image) -> str:
    """Return an image as a `data:` URL with its JPEG bytes, for the `src` of an `<img>`."""
    file: Any = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
