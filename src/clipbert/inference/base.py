"""What the pipelines of all tasks share: reading and encoding of videos, and calls with many inputs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.files.byte_cache import ByteCache, cache_limit
from clipbert.inference.results import SHOWN_FRAMES
from clipbert.model import ClipBertProcessor
from clipbert.model.confidence import Calibration, Confidence, mean_tokens
from clipbert.model.processor_inputs import check_videos
from clipbert.sampling.candidates import fit
from clipbert.sampling.clips import uniform_clips
from clipbert.sampling.segments import segment_item
from clipbert.sampling.video_input import content_digest
from clipbert.tasks.scoring import ProcessorTokens, encode_clips
from clipbert.video.still_images import upright_rgb

BATCH_SIZE = 256
Row = dict[str, Any]
OnError = Literal["raise", "skip"]
# What a caller's video or text can cause; any other exception is a fault of the program.
INPUT_ERRORS = (ClipBertError, ValueError, MemoryError)
AnyPipeline = TypeVar("AnyPipeline", bound="type[Pipeline]")
PIPELINES: dict[type[Any], "type[Pipeline]"] = {}


def register_pipeline(model_class: type[Any]) -> Callable[[AnyPipeline], AnyPipeline]:
    """Make a `Pipeline` the one of a model class; use it as a class decorator."""

    def register(pipeline_class: AnyPipeline) -> AnyPipeline:
        PIPELINES[model_class] = pipeline_class
        return pipeline_class

    return register


@dataclass(frozen=True)
class GivenFrames:
    """The candidate frames of a video in memory, resized as the frames of a file are."""

    images: Any  # (N, H, W, 3) uint8 RGB, or a list of PIL images
    size: int

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: NDArray[np.int64]) -> Sequence[NDArray[np.uint8]]:
        """Return the frames `indices`.

        Raises:
            ValueError: a PIL image cannot be read.
        """
        chosen = [self.images[index] for index in indices]
        try:
            return [fit(upright_rgb(image) if isinstance(image, Image.Image) else image, self.size) for image in chosen]
        except (OSError, ValueError, SyntaxError) as error:  # PIL decodes an image when its pixels are read
            raise ValueError(f"the video holds an image that cannot be read: {error}.") from error


@dataclass(frozen=True)
class PreparedVideo:
    """A decoded video, or the visual tokens that are kept of it.

    Attributes:
        key: content and segment of the file; None where the tokens are not to be kept.
        frames: None where there are tokens.
        tokens: (K, V, hidden); None where there are frames.
    """

    key: tuple[Any, ...] | None
    frames: GivenFrames | None
    tokens: Tensor | None


class Pipeline(ABC):
    """A model in evaluation mode and its processor; videos are paths, file bytes, frame arrays or PIL images.

    A segment of a file is {"video": path or bytes, "start_s": seconds, "end_s": seconds}.

    Scores are those of evaluation: both call `clipbert.tasks.scoring`. A subclass adds `__call__` for Python and
    `answer_rows` for the served model. The visual tokens of recent files are kept by the digest of their content, up to
    CLIPBERT_CACHE_MB, and are not used after a change of the model or of the settings.

    Attributes:
        model, processor: as loaded from the folder; `processor.clips` is how many clips of a video are shown.
        frames: how candidate frames are taken from files.
        batch_size: text-video pairs in one forward pass.
        task, folder: of the model; None for a pipeline that `pipeline` did not make.
        confidence: calibration and known input of the model folder; None where it has none.
    """

    def __init__(
        self,
        model: Any,
        processor: ClipBertProcessor,
        frames: FramesParams | None = None,
        batch_size: int = BATCH_SIZE,
        task: str | None = None,
        folder: str | Path | None = None,
        confidence: Confidence | None = None,
    ) -> None:
        self.confidence = confidence
        self.task, self.folder = task, folder
        self.model = model
        self.processor = processor
        self.frames = processor.candidates if frames is None else frames
        self.batch_size = batch_size
        self.tokenize = ProcessorTokens(processor, model.device)
        self._encoded = ByteCache(cache_limit())

    def __repr__(self) -> str:
        config = self.model.config
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        return (
            f"{type(self).__name__}(task={self.task!r}, folder={str(self.folder)!r}, model={type(self.model).__name__} "
            f"with {millions:.1f} M parameters, image_size={config.image_size}, clips={self.processor.clips} of "
            f"{self.processor.frames_per_clip} frames, device={str(self.model.device)!r})"
        )

    def few_frames(self, video: Any) -> Sequence[NDArray[np.uint8]]:
        """Return a few frames of a video to show, evenly spread, each (H, W, 3) uint8 RGB.

        Raises:
            ClipBertError: a file cannot be read.
            ValueError: frames of a wrong shape.
        """
        images = self.processor.read_video(video, self.frames)
        chosen = uniform_clips(len(images), min(SHOWN_FRAMES, len(images)), 1).flatten()
        return GivenFrames(images, self.frames.size).read(chosen)

    @abstractmethod
    def __call__(self, *args: Any, **options: Any) -> list[Row]:
        """Return the answers about one video, or for one text."""

    @abstractmethod
    def answer_rows(self, visual_embeds: Tensor, rows: list[Row], params: dict[str, Any]) -> list[Row]:
        """Return the answer to each row of a request about one video (1, K, V, hidden), as columns of `Serving`.

        Args:
            rows: the input columns other than that of the video.
            params: the parameters of the request.
        """

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of the answers; None where the model folder has none."""
        return None if self.confidence is None else self.confidence.calibration

    def with_confidence(self, rows: list[Row]) -> list[Row]:
        """Return the rows of all answers to a question with their calibrated confidence, where there is one."""
        if self.calibration is None:
            return rows
        found = self.calibration.confidences([row["score"] for row in rows])
        return [row | {"confidence": each} for row, each in zip(rows, found, strict=True)]

    def remarks(self, video: Any, texts: Sequence[str] = ()) -> list[str]:
        """Return in words how a video and texts differ from those of the training; empty where nothing is noticed.

        Args:
            video: as in a call.
            texts: the question, options or descriptions.

        Raises:
            ClipBertError: a file cannot be read.
            ValueError: frames of a wrong shape.
        """
        if self.confidence is None:
            return []
        (embeds,) = self.encode([video]) if self.confidence.videos is not None else (None,)
        return self.remarks_of(embeds, texts)

    def remarks_of(self, embeds: Tensor | None, texts: Sequence[str] = ()) -> list[str]:
        """Return what `remarks` says of the visual tokens (K, V, hidden) of a video; None: nothing about the video."""
        if self.confidence is None:
            return []
        found = []
        known = self.confidence.videos
        if known is not None and embeds is not None and embeds.shape[-1] == known.hidden:
            times = float(known.distances(mean_tokens(embeds)[None])[0]) / known.limit
            if times > 1:
                found.append(f"unlike the training videos (distance {times:.1f} times the 99th percentile)")
        words = list(dict.fromkeys(word for text in texts for word in self.confidence.unknown_words(text)))
        if words:
            found.append(f"words that no training text has: {', '.join(words)}")
        return found

    def request_params(self, defaults: dict[str, Any], requested: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a request: the requested ones, and the defaults of the others.

        Raises:
            ValueError: a value that this model does not allow.
        """
        return defaults | requested

    def batch(
        self, inputs: Iterable[Mapping[str, Any]], on_error: OnError = "raise", **options: Any
    ) -> list[list[Row] | Exception]:
        """Return what a call returns for each of many inputs, in their order.

        Args:
            inputs: the arguments of each call by name, such as {"video": "a.mp4", "question": "what color is it?"}.
            on_error: "raise" the first error of an input; "skip" returns the error in place of the answers to it.
            options: arguments of all calls.

        Raises:
            ClipBertError, ValueError: with "raise", as the call; in any case an argument that the call does not have.
        """
        check_on_error(on_error)
        found: list[list[Row] | Exception] = []
        for number, given in enumerate(inputs):
            if not isinstance(given, Mapping):
                raise ValueError(f"inputs[{number}] is {given!r:.60}: expected the arguments of a call by name.")
            try:
                found.append(self(**given, **options))
            except INPUT_ERRORS as error:
                if on_error == "raise":
                    raise
                found.append(error)
            except TypeError as error:
                raise ValueError(f"inputs[{number}] has the keys {', '.join(map(str, given))}: {error}.") from error
        return found

    def encode(self, videos: Sequence[Any], clips: int | None = None) -> Tensor:
        """Return the visual tokens (B, K, V, hidden) of videos, for any number of texts.

        Args:
            clips: uniform clips of each video; None: `processor.clips`.

        Raises:
            ClipBertError: a file cannot be read.
            ValueError: no videos, or frames of a wrong shape.
        """
        found = self.encode_each(videos, clips)
        return torch.stack([embeds for embeds in found if isinstance(embeds, Tensor)])

    def encode_each(
        self,
        videos: Sequence[Any],
        clips: int | None = None,
        on_error: OnError = "raise",
        frames: FramesParams | None = None,
    ) -> list[Tensor | Exception]:
        """Return the visual tokens (K, V, hidden) of each video.

        Args:
            clips: as in `encode`.
            on_error: "raise" the first error of a video; "skip" returns the error in place of its tokens.
            frames: how candidate frames are taken from files; None: `self.frames`.

        Raises:
            ClipBertError, ValueError: with "raise", as in `encode`; in any case no videos.
        """
        check_videos(videos, "videos")
        check_on_error(on_error)
        frames, clips = frames or self.frames, clips or self.processor.clips
        read = self.processor.video_reader(frames)
        state = self._state(clips, frames)
        found: list[Tensor | Exception] = []
        for number, video in enumerate(videos):
            try:
                found.append(self._encode_one(video, number, read, frames.size, clips, state))
            except INPUT_ERRORS as error:
                if on_error == "raise":
                    raise
                found.append(error)
        return found

    def _encode_one(
        self,
        video: Any,
        number: int,
        read: Callable[[Any, int], Any],
        size: int,
        clips: int,
        state: tuple[Any, ...] | None,
    ) -> Tensor:
        """Return the visual tokens (K, V, hidden) of a video, which may be kept from an earlier call."""
        (embeds,) = self._encode_prepared([self._prepare(video, number, read, size, state)], clips, state)
        return embeds

    def prepare(self, video: Any, frames: FramesParams | None = None) -> PreparedVideo:
        """Decode a video, unless its visual tokens are kept: the part of `encode` that needs no model.

        Args:
            video: as in a call.
            frames: `self.frames` with other limits of time and memory; None: `self.frames`.

        Raises:
            ClipBertError, ValueError: as in `encode`.
        """
        read = self.processor.video_reader(frames or self.frames)
        return self._prepare(video, 0, read, self.frames.size, self._state(self.processor.clips))

    def encode_prepared(self, videos: Sequence[PreparedVideo]) -> list[Tensor]:
        """Return the visual tokens (K, V, hidden) of videos that `prepare` returned."""
        return self._encode_prepared(videos, self.processor.clips, self._state(self.processor.clips))

    def _prepare(
        self, video: Any, number: int, read: Callable[[Any, int], Any], size: int, state: tuple[Any, ...] | None
    ) -> PreparedVideo:
        key = None if state is None else file_key(video)
        if key is not None:
            kept: Tensor | None = self._encoded.get((key, state))
            if kept is not None:
                return PreparedVideo(key, None, kept)
        images = read(video, number)
        if key is not None and file_key(video) != key:  # the file changed while it was decoded
            key = None
        return PreparedVideo(key, GivenFrames(images, size), None)

    def _encode_prepared(
        self, videos: Sequence[PreparedVideo], clips: int, state: tuple[Any, ...] | None
    ) -> list[Tensor]:
        frames = [video.frames for video in videos if video.frames is not None]
        encoded = iter(encode_clips(self.model, self.processor, frames, clips))
        found = []
        for video in videos:
            embeds = next(encoded) if video.tokens is None else video.tokens
            if video.tokens is None and video.key is not None and state is not None:
                self._encoded.put((video.key, state), embeds, embeds.nbytes)
            found.append(embeds)
        return found

    def _state(self, clips: int, frames: FramesParams | None = None) -> tuple[Any, ...] | None:
        """Return all that decides the tokens of a file; None where a change of the model could not be noticed."""
        frames, processor = frames or self.frames, self.processor
        try:
            weights = hash(
                tuple(
                    (tensor.data_ptr(), tensor._version, tensor.dtype)
                    for tensor in (*self.model.parameters(), *self.model.buffers())
                )
            )
        except RuntimeError:  # tensors made in inference mode have no version
            return None
        kind = self.model.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        sizes = (processor.image_size, processor.frames_per_clip, processor.resize, clips)
        chosen = (frames.fps, frames.size, frames.max_frames, frames.sampling)
        return weights, self.model.training, autocast, sizes, chosen

    def forget(self) -> None:
        """Drop the visual tokens that are kept of recent files."""
        self._encoded.clear()

    def _batches(self, visual_embeds: Tensor, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (visual_embeds (N, K, V, hidden), input_ids, attention_mask) of texts about one video, N at a time."""
        for start in range(0, len(texts), self.batch_size):
            input_ids, attention_mask = self.tokenize(texts[start : start + self.batch_size])
            yield visual_embeds.expand(len(input_ids), -1, -1, -1), input_ids, attention_mask


def check_on_error(on_error: str) -> None:
    """Check an argument `on_error`.

    Raises:
        ValueError: it is neither "raise" nor "skip".
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}: expected 'raise' or 'skip'.")


def file_key(video: Any) -> tuple[Any, ...] | None:
    """Return the content and the segment of a video that is a file; None for frames in memory and unreadable files.

    Raises:
        ValueError: a dictionary that is not a segment.
    """
    segment = None
    if isinstance(video, Mapping):
        video, segment = segment_item(video, "frames[0]")
    if not isinstance(video, str | Path | bytes) or not video:
        return None
    digest = content_digest(video)
    return (
        None
        if digest is None
        else (digest, Path(video).suffix.lower() if not isinstance(video, bytes) else "", segment)
    )
