"""Conversion of still pictures, from files or PIL, to the pixels that the model sees."""

import numpy as np
from PIL import Image, ImageOps


def upright_rgb(picture: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8: turned by its EXIF orientation, on white where it is transparent, 16 bits scaled to 8.

    Raises:
        OSError, ValueError: PIL cannot decode it.
    """
    image = ImageOps.exif_transpose(picture)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
