"""Small pictures in pages: frames side by side, as `data:` URLs."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

WIDEST = 2.0  # width of a frame over its height; wider ones are cropped
GAP = 2  # pixels between two frames, transparent
QUALITY = 60


def side_by_side(frames: Sequence[NDArray[np.uint8]], height: int) -> str:
    """Return frames side by side, each as wide as the first one, as a `data:` URL with WebP bytes.

    Args:
        frames: at least one, each (H, W, 3) uint8 RGB.
        height: of the picture in pixels.
    """
    images = [Image.fromarray(frame) for frame in frames]
    width = max(1, round(height * min(images[0].width / images[0].height, WIDEST)))
    canvas = Image.new("RGBA", (len(images) * (width + GAP) - GAP, height))
    for index, image in enumerate(images):
        canvas.paste(ImageOps.fit(image, (width, height)), (index * (width + GAP), 0))
    file = io.BytesIO()
    canvas.save(file, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
