"""Processor: from frames and texts to the input tensors of a ClipBERT model."""

import logging
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.utils import PushToHubMixin

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError, ModelFolderError
from clipbert.files.atomic import write_json
from clipbert.model.configuration import ClipBertConfig
from clipbert.model.dual_tokenizer import FOLDER, DualTokenizer, load_dual_tokenizer
from clipbert.model.processor_file import (
    FRAME_SETTINGS,
    POSITIVE,
    PROCESSOR_FILE,
    RESIZES,
    SETTINGS,
    is_positive_integer,
    read_processor_file,
)
from clipbert.model.processor_inputs import (
    ClipIndices,
    File,
    Frames,
    Video,
    check_frames,
    check_indices,
    check_videos,
    short_repr,
)
from clipbert.model.tokenizer import load_tokenizer, train_tokenizer
from clipbert.model.weights.checksums import check_model, sign_files
from clipbert.model.weights.hub import HUB_ID, download_without_weights
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import segment_item
from clipbert.video.still_images import upright_rgb

logger = logging.getLogger(__name__)

PAD_TO_MULTIPLE_OF = 8


class ClipBertProcessor(PushToHubMixin):
    """Processor of ClipBERT: makes `pixel_values`, `input_ids` and `attention_mask`.

    The longer side of a frame is resized to `image_size`, and the rest of the square is filled with zeros at the right
    and bottom, as in the paper's released code; `resize` chooses another way. Pixels stay uint8 in [0, 255]; the model
    normalizes them. Texts are truncated to `max_text_length` tokens and padded to the longest one, rounded up to a
    multiple of 8.

    Attributes:
        clips: number of uniform clips per video. A training stores `evaluate.clips` here, so that evaluation,
            pipelines and the MLflow model use the same number.
        frames: how candidate frames are taken from a file, as in the frame cache of the training; None: not stored,
            as in converted checkpoints and folders of earlier versions (`candidates` gives the value to use).
        generation: keyword arguments of `Decoding` for captioning; None: not stored.
        dual_tokenizer: tokenizer of a pretrained dual encoder, whose ids follow in the last columns of `input_ids`.
        resize: how a frame becomes a square: "pad"; "crop", its center, as CLIP; "stretch", as SigLIP.

    Example:
        >>> processor = ClipBertProcessor.from_pretrained("artifacts/models/retrieval")
        >>> inputs = processor(["a.mp4", "b.mp4"], ["a red circle", "a blue square moves left"])
        >>> inputs["pixel_values"].shape  # (videos, clips, frames, 3, height, width)
        torch.Size([2, 2, 1, 3, 96, 96])
    """

    train_tokenizer = staticmethod(train_tokenizer)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        image_size: int = 448,
        clips: int = 8,
        frames_per_clip: int = 2,
        max_text_length: int = 32,
        frames: FramesParams | None = None,
        generation: dict[str, Any] | None = None,
        dual_tokenizer: DualTokenizer | None = None,
        resize: str = "pad",
    ) -> None:
        if resize not in RESIZES:
            raise ValueError(f"resize is {resize!r}: expected one of {list(RESIZES)}.")
        self.tokenizer = tokenizer
        self.dual_tokenizer = dual_tokenizer
        self.resize = resize
        self.image_size = image_size
        self.clips = clips
        self.frames_per_clip = frames_per_clip
        self.max_text_length = max_text_length
        self.frames = frames
        self.generation = generation
        self._warned = False
        for name in SETTINGS:
            value = getattr(self, name)
            if not is_positive_integer(value):
                raise ValueError(f"{name} is {value!r}: expected {POSITIVE}.")

    @classmethod
    def for_config(
        cls, config: ClipBertConfig, tokenizer: PreTrainedTokenizerFast, **overrides: Any
    ) -> "ClipBertProcessor":
        """Return the processor of a model of this configuration; keyword arguments replace its settings."""
        return cls(tokenizer, **({name: getattr(config, name) for name in SETTINGS} | overrides))

    def __call__(
        self,
        frames: Sequence[Video] | None = None,
        texts: Sequence[str] | None = None,
        clip_indices: Sequence[ClipIndices] | None = None,
        candidates: FramesParams | None = None,
    ) -> BatchFeature:
        """Return the tensors of B videos and N texts; either may be omitted.

        Args:
            frames: for each video, its frames in time order as a (frames, H, W, 3) uint8 RGB array or a list of PIL
                images; or one PIL image; or the path or bytes of a video or image file, which is decoded in a
                separate process; or {"video": a path or bytes, "start_s": seconds, "end_s": seconds} for a segment of
                a file, of which the start or the end may be missing.
            texts: the texts of all videos, in the order of the videos.
            clip_indices: for each video, a (K, T) array of indices into its frames; None: `clips` x `frames_per_clip`
                frames spread evenly over the video.
            candidates: how frames are taken from files; None: `self.candidates`.

        Returns:
            `pixel_values` (B, K, T, 3, image_size, image_size) uint8, `input_ids` and `attention_mask` (N, L) int64.

        Raises:
            ValueError: an argument of a wrong type or shape, an index outside the video, an empty text.
            ClipBertError: a file is missing or cannot be decoded, or a URL was given.
        """
        data: dict[str, torch.Tensor] = {}
        if frames is not None:
            data["pixel_values"] = self._pixels(frames, clip_indices, candidates)
        elif clip_indices is not None:
            raise ValueError("clip_indices are given without frames.")
        if texts is not None:
            data["input_ids"], data["attention_mask"] = self._tokens(texts)
        if not data:
            raise ValueError("frames and texts: at least one of them must be given.")
        return BatchFeature(data)

    @property
    def candidates(self) -> FramesParams:
        """How candidate frames are taken from a file: as stored, else the defaults at least at `image_size`."""
        if self.frames is not None:
            return self.frames
        default = FramesParams()
        return default.model_copy(update={"size": max(default.size, self.image_size)})

    def read_video(self, video: Video, candidates: FramesParams | None = None, number: int = 0) -> Frames:
        """Return the candidate frames of one video; a file is decoded.

        Args:
            video: as in `__call__`.
            candidates: how frames are taken from a file; None: `self.candidates`.
            number: the position of the video in its list, for messages.

        Raises:
            ValueError: a wrong type or shape.
            ClipBertError: a file is missing or cannot be decoded, or a URL was given.
        """
        return next(self.read_videos([video], candidates, number))

    def read_videos(
        self, videos: Sequence[Video], candidates: FramesParams | None = None, first: int = 0
    ) -> Iterator[Frames]:
        """Yield the candidate frames of each video; consecutive segments of one file are decoded once.

        Args:
            videos: as `frames` in `__call__`.
            candidates: how frames are taken from files; None: `self.candidates`.
            first: the position of the first video in its list, for messages.

        Raises:
            ValueError, ClipBertError: as in `read_video`.
        """
        read = self.video_reader(candidates)
        for number, video in enumerate(videos, start=first):
            yield read(video, number)

    def video_reader(self, candidates: FramesParams | None = None) -> Callable[[Video, int], Frames]:
        """Return a function that reads one video of a list, given its position in the list for messages.

        It decodes consecutive segments of one file once, and raises what `read_video` raises.

        Raises:
            ValueError: `candidates` is of a wrong type.
        """
        chosen = self.candidates if candidates is None else candidates
        if not isinstance(chosen, FramesParams):
            raise ValueError(f"candidates is {short_repr(chosen)}: expected a FramesParams (clipbert.config.schema).")
        decode = lru_cache(maxsize=1)(lambda file: _decode(file, chosen))
        return lambda video, number: check_frames(_frames_of(video, decode, number), number)

    def square(self, image: NDArray[np.uint8] | Image.Image) -> NDArray[np.uint8]:
        """Return an RGB frame as a square (image_size, image_size, 3), resized as `resize` says."""
        picture = Image.fromarray(upright_rgb(image) if isinstance(image, Image.Image) else image)
        if self.resize != "pad":
            return np.array(self._fill(picture))
        width, height = picture.size
        scale = self.image_size / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        square = np.zeros((self.image_size, self.image_size, 3), dtype=np.uint8)
        square[: size[1], : size[0]] = np.asarray(picture)
        return square

    def _fill(self, picture: Image.Image) -> Image.Image:
        """Return a picture whose whole square is filled: the center of it, or all of it stretched."""
        side = self.image_size
        if self.resize == "crop":
            width, height = picture.size
            scale = side / min(width, height)
            size = (max(side, int(width * scale)), max(side, int(height * scale)))  # as transformers rounds
            picture = picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)
            left, top = (size[0] - side) // 2, (size[1] - side) // 2
            return picture.crop((left, top, left + side, top + side))
        return picture if picture.size == (side, side) else picture.resize((side, side), Image.Resampling.BICUBIC)

    def _pixels(
        self, videos: Sequence[Video], clip_indices: Sequence[ClipIndices] | None, candidates: FramesParams | None
    ) -> torch.Tensor:
        check_videos(videos, "frames")
        if clip_indices is not None and len(clip_indices) != len(videos):
            raise ValueError(f"clip_indices is given for {len(clip_indices)} videos: expected {len(videos)}.")
        batch = []
        for number, images in enumerate(self.read_videos(videos, candidates)):
            if clip_indices is None:
                indices = uniform_clips(len(images), self.clips, self.frames_per_clip)
            else:
                indices = check_indices(clip_indices[number], len(images), number)
            wanted, inverse = np.unique(indices, return_inverse=True)
            try:
                squares = np.stack([self.square(images[index]) for index in wanted])
            except (OSError, ValueError, SyntaxError) as error:  # PIL decodes an image when its pixels are read
                raise ValueError(f"frames[{number}] holds an image that cannot be read: {error}.") from error
            batch.append(squares[inverse.reshape(-1)].reshape(*indices.shape, *squares.shape[1:]))
        shapes = {clip.shape for clip in batch}
        if len(shapes) > 1:
            raise ValueError(
                f"clip_indices has shapes {sorted(shape[:2] for shape in shapes)}: expected the same clips x frames "
                "for every video of the batch."
            )
        return torch.from_numpy(np.stack(batch)).permute(0, 1, 2, 5, 3, 4).contiguous()

    def _tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        if (
            isinstance(texts, str | bytes | Mapping)
            or not isinstance(texts, Collection)
            or len(texts) == 0
            or not all(isinstance(text, str) for text in texts)
        ):
            raise ValueError(f"texts is {short_repr(texts)}: expected a list of strings, not empty.")
        for number, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"texts[{number}] is {short_repr(text)}: expected a text that is not empty.")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(
                    f"texts[{number}] is {short_repr(text)}: holds half of a surrogate pair, expected Unicode."
                )
        # Tokenizers of BERT checkpoints may have composed characters only.
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_text_length)
        cut = next((number for number, encoding in enumerate(encoded.encodings) if encoding.overflowing), None)
        if cut is not None and not self._warned:
            self._warned = True
            length = len(self.tokenizer.tokenize(texts[cut])) + self.tokenizer.num_special_tokens_to_add()
            logger.warning(
                "texts[%d] has %d tokens: texts longer than max_text_length, %d tokens, are cut. "
                "This warning is shown once.",
                cut,
                length,
                self.max_text_length,
            )
        longest = max(len(ids) for ids in encoded["input_ids"])
        length = -(-longest // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF
        input_ids = torch.full((len(texts), length), self.tokenizer.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros((len(texts), length), dtype=torch.long)
        for row, ids in enumerate(encoded["input_ids"]):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
        if self.dual_tokenizer is None:
            return input_ids, attention_mask
        dual = self.dual_tokenizer(texts)
        return torch.cat([input_ids, dual], dim=1), torch.cat([attention_mask, torch.ones_like(dual)], dim=1)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write `processor_config.json` and the files of the tokenizers into a folder, usually that of the model."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = [Path(name) for name in self.tokenizer.save_pretrained(str(folder))]
        settings: dict[str, Any] = {name: getattr(self, name) for name in SETTINGS}
        if self.frames is not None:
            settings["frames"] = self.frames.model_dump(include=set(FRAME_SETTINGS))
        if self.generation is not None:
            settings["generation"] = self.generation
        if self.resize != "pad":
            settings["resize"] = self.resize
        if self.dual_tokenizer is not None:
            written += self.dual_tokenizer.save(folder)
            settings["dual_encoder"] = {"max_text_length": self.dual_tokenizer.length}
        write_json(folder / PROCESSOR_FILE, {"processor_class": type(self).__name__, **settings})
        sign_files(folder, [*written, folder / PROCESSOR_FILE])

    @classmethod
    def from_pretrained(cls, source: str | Path, **overrides: Any) -> "ClipBertProcessor":
        """Load the processor of a folder or of a repository of the hub; keyword arguments replace its settings.

        Args:
            source: folder, or the id OWNER/NAME.
            overrides: settings; for the hub also `revision`, `cache_dir`, `token` and `local_files_only`.

        Raises:
            ModelFolderError: `processor_config.json` or the tokenizer's files are missing, unreadable, or have
                changed since they were saved, or a field of `processor_config.json` has a wrong value.
        """
        if not Path(source).is_dir() and HUB_ID.fullmatch(str(source)):
            source = download_without_weights(str(source), **overrides)
        path = Path(source) / PROCESSOR_FILE
        for file in (path, Path(source) / "tokenizer.json"):
            if not file.is_file():
                raise ModelFolderError(
                    f"{file}: not found: {source} is not a complete ClipBERT model folder. Train or convert the model "
                    "again, or point at a folder written by save_pretrained."
                )
        check_model(Path(source), weights=False)
        settings, dual_length = read_processor_file(path)
        if dual_length:
            try:
                settings["dual_tokenizer"] = load_dual_tokenizer(
                    Path(source) / FOLDER, dual_length, local_files_only=True
                )
            except ClipBertError as error:
                raise ModelFolderError(f"{error} Train or convert the model again.") from error
        known = (*SETTINGS, "frames", "generation", "resize")
        settings |= {name: value for name, value in overrides.items() if name in known}
        return cls(load_tokenizer(source), **settings)


def _frames_of(video: Video, decode: Callable[[File], Any], number: int) -> Frames:
    """Return the frames of a video, which may be a file, a segment of one, or a single image."""
    segment = None
    if isinstance(video, Mapping):
        video, segment = segment_item(video, f"frames[{number}]")
    if isinstance(video, str | Path | bytes):
        decoded = decode(video)
        if segment is None:
            return cast(Frames, decoded.images)
        from clipbert.sampling.video_input import frames_inside, input_name

        return frames_inside(decoded, segment, input_name(video))
    if segment is not None:
        raise ValueError(
            f"frames[{number}] has start_s or end_s, but its frames are in memory and have no times: expected the path "
            "or the bytes of a file. Pass the frames of the segment only."
        )
    return [video] if isinstance(video, Image.Image) else cast(Frames, video)


def _decode(file: File, candidates: FramesParams) -> Any:
    from clipbert.sampling.video_input import decode_input

    return decode_input(file, candidates)
