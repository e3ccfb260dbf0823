"""Training batches from the frame cache; videos, clips and texts are drawn from (seed, epoch, example) alone."""

import contextlib
import hashlib
import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clipbert.config.training import AugmentParams
from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.sampling.clips import random_clips
from clipbert.sampling.segments import Segment, item_key
from clipbert.tasks.base import Task
from clipbert.tasks.batch import Batch, Example
from clipbert.tasks.predict import ProcessorTokens, pixels
from clipbert.tasks.scoring import CachedFrames, is_features
from clipbert.training.augmentation import augment

MAX_FAILURES = 3
# Messages of torch's DataLoader about a worker that died, and about its thread that received half a batch from one.
WORKER_DIED = ("DataLoader worker", "Pin memory thread")

AUGMENTATION = 1  # stream of random numbers, so that augmentation changes no clip and no text

Key = tuple[int, int, bool]  # epoch, index of the example, whether this process loads its frames


@dataclass(frozen=True)
class Sample:
    """Example with drawn clips and texts.

    Attributes:
        media: the video of the example.
        segment: of the video, if the example is about one.
        images: frames (K*T, H, W, 3) uint8 in clip order, or their features (K*T, ...) from a feature cache; None if
            another process loads them.
        texts: one list per drawn item: a text, or the options of a multiple-choice question.
        seed: for draws that depend on the tokens.
    """

    media: str
    segment: Segment | None
    images: np.ndarray | None
    texts: list[list[str]]
    labels: list[Any]
    ids: list[str]
    caption: str | None
    seed: int


@dataclass(frozen=True)
class FailedSample:
    """Error in place of a sample or batch that could not be loaded, to be raised without the worker's traceback."""

    error: ClipBertError


class DistributedBatchSampler(Sampler[list[Key]]):
    """Resumable distributed batch sampler: yields lists of (epoch, example, own) from batch `start` on.

    Each epoch is a permutation drawn from (seed, epoch) alone, so a resumed training continues in the same order. The
    examples of a step do not depend on the number of batches and processes that share it: each process loads the frames
    of consecutive videos of every batch, and their numbers differ by at most one. The remainder that does not fill a
    step is dropped, a different one in each epoch. With `epochs` None the sampler is endless.

    Raises:
        ClipBertError: a batch has fewer videos than there are processes.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        epochs: int | None,
        seed: int,
        start: int = 0,
        gradient_accumulation_steps: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.examples, self.seed, self.epochs, self.start = examples, seed, epochs, start
        self.batch_size = min(batch_size, examples)
        self.gradient_accumulation_steps = min(gradient_accumulation_steps, examples // self.batch_size)
        self.steps_per_epoch = examples // (self.batch_size * self.gradient_accumulation_steps)
        self.steps = None if epochs is None else self.steps_per_epoch * epochs
        if self.batch_size < world:
            raise ClipBertError(
                f"train.batch_size: a batch of {self.batch_size} videos cannot be shared by {world} processes. "
                f"Set train.batch_size to {world} or more (the training split has {examples} videos), or "
                f"train.processes to {self.batch_size}."
            )
        edges = [self.batch_size * part // world for part in range(world + 1)]
        self.videos_per_rank = tuple(end - begin for begin, end in itertools.pairwise(edges))
        self.own = slice(edges[rank], edges[rank + 1])

    def epoch_of(self, step: int) -> int:
        """Return the 0-based epoch of a 0-based step."""
        return step // self.steps_per_epoch

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("an endless sampler has no length")
        return self.steps * self.gradient_accumulation_steps - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        batches_per_epoch = self.steps_per_epoch * self.gradient_accumulation_steps
        epoch, first = divmod(self.start, batches_per_epoch)
        while self.epochs is None or epoch < self.epochs:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.examples)
            for batch in range(first, batches_per_epoch):
                indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                own = range(self.batch_size)[self.own]
                yield [(epoch, int(index), position in own) for position, index in enumerate(indices)]
            epoch, first = epoch + 1, 0


class TrainingSamples(Dataset[Sample | FailedSample]):
    """Sparse random clips and texts of the training examples; the same (epoch, index) always gives the same sample."""

    def __init__(
        self,
        cache: FrameCache,
        examples: list[Example],
        task: Task,
        config: Any,
        seed: int,
        augmentation: AugmentParams = AugmentParams(),  # noqa: B008
    ) -> None:
        self.cache, self.examples, self.task, self.config, self.seed = cache, examples, task, config, seed
        self.augmentation = augmentation
        self.captions = task.examples.uses_captions(examples)

    def __getitem__(self, key: Key) -> Sample | FailedSample:
        try:
            return self.draw(*key)
        except ClipBertError as error:
            return FailedSample(error)

    def draw(self, epoch: int, index: int, own: bool = True) -> Sample:
        """Return the sample of an example in an epoch, with its frames if `own`.

        Raises:
            ClipBertError: the frames cannot be read (`CorruptShardError`).
        """
        example = self.examples[index]
        generator = np.random.default_rng([self.seed, epoch, index])
        video = CachedFrames(self.cache, example.media, example.segment)
        frames = random_clips(len(video), self.config.clips, self.config.frames_per_clip, generator)
        chosen = self.task.examples.draw(example, generator)
        return Sample(
            media=example.media,
            segment=example.segment,
            images=self._read(video, frames, [self.seed, epoch, index, AUGMENTATION]) if own else None,
            texts=[self.task.examples.input_texts(example, i) for i in chosen],
            labels=self.task.examples.labels(example, chosen, self.config),
            ids=[example.ids[i] for i in chosen],
            caption=str(generator.choice(example.captions)) if self.captions else None,
            seed=int(generator.integers(2**63)),
        )

    def _read(self, video: CachedFrames, frames: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Return the frames of clips (K, T), augmented where they are pixels, or their features."""
        images = video.read(frames.flatten())
        if self.augmentation.enabled and not is_features(images):
            images = augment(images, self.augmentation, np.random.default_rng(seeds))
        return images


class Collate:
    """Collate function: samples to a `Batch`, through the model's processor.

    All texts of a batch are padded and prepared together, so that every process gets the values that a single process
    would get; then each keeps the texts of the videos that it loads.
    """

    def __init__(self, processor: Any, task: Task, config: Any, videos_per_rank: tuple[int, ...] = ()) -> None:
        self.processor, self.task, self.config, self.videos_per_rank = processor, task, config, videos_per_rank

    def __call__(self, drawn: list[Sample | FailedSample]) -> Batch | FailedSample:
        failed = [sample for sample in drawn if isinstance(sample, FailedSample)]
        if failed:
            return failed[0]
        samples = [sample for sample in drawn if isinstance(sample, Sample)]
        items = [texts for sample in samples for texts in sample.texts]
        encoded = self.processor(texts=[text for texts in items for text in texts])
        captions = [sample.caption for sample in samples if sample.caption is not None]
        captioned = self.processor(texts=captions) if captions else {}
        clips, frames_per_clip = self.config.clips, self.config.frames_per_clip
        own = [sample.images is not None for sample in samples]
        frames = [sample.images for sample in samples if sample.images is not None]
        videos = torch.stack([pixels(self.processor, images, clips, frames_per_clip) for images in frames])
        features = is_features(frames[0])
        batch = Batch(
            pixel_values=None if features else videos,
            frame_features=videos if features else None,
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            texts_per_video=torch.tensor([sum(map(len, sample.texts)) for sample in samples]),
            labels=torch.tensor([label for sample in samples for label in sample.labels]),
            ids=[text_id for sample in samples for text_id in sample.ids],
            texts_per_item=torch.tensor([len(texts) for texts in items]),
            caption_ids=captioned.get("input_ids"),
            caption_mask=captioned.get("attention_mask"),
            media_keys=torch.tensor([media_key(sample.media) for sample in samples]),
            spans=_spans([sample.segment for sample in samples]),
            media=tuple(item_key(sample.media, sample.segment) for sample in samples),
        )
        tokenize = ProcessorTokens(self.processor, torch.device("cpu"))
        batch = self.task.examples.prepare(batch, [sample.seed for sample in samples], tokenize, self.config)
        if all(own):
            return batch.with_lengths(self.config.dual_text_length)
        first = own.index(True)
        batch = replace(batch, videos_per_rank=self.videos_per_rank)
        batch = batch.of_videos(slice(first, first + len(frames)), torch.tensor([len(s.texts) for s in samples]))
        return batch.with_lengths(self.config.dual_text_length)


def media_key(media: str) -> int:
    """Return a hash of a video's name as a signed 64-bit integer, which processes can compare in tensors."""
    return int.from_bytes(hashlib.sha256(media.encode()).digest()[:8], signed=True)


def _spans(segments: list[Segment | None]) -> Tensor | None:
    """Return the start and the end (B, 2) of each segment in seconds; None where all are whole videos."""
    if not any(segments):
        return None
    return torch.tensor([[0.0, math.inf] if s is None else [s.start_s, s.end_s] for s in segments])


def training_batches(
    dataset: TrainingSamples, sampler: DistributedBatchSampler, processor: Any, num_workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """Return a loader of the batches from `sampler.start` on; with `num_workers` 0 this process loads them."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=Collate(processor, dataset.task, dataset.config, sampler.videos_per_rank),
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context=_fork_server() if num_workers else None,
        worker_init_fn=_start_worker if num_workers else None,
        # Creating an iterator draws a number; from the default generator, it would change a resumed training.
        generator=torch.Generator().manual_seed(dataset.seed),
    )


class Batches:
    """Iterator over the batches of a training, on the device.

    Data loader workers that die are replaced and their batches loaded again, which gives the same batches.

    Attributes:
        position: number of the next batch, counted from the start of the training.
    """

    def __init__(
        self,
        dataset: TrainingSamples,
        sampler: DistributedBatchSampler,
        processor: Any,
        num_workers: int,
        device: torch.device,
    ) -> None:
        self.dataset, self.sampler, self.processor = dataset, sampler, processor
        self.num_workers, self.device = num_workers, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.start_at(sampler.start)

    def start_at(self, position: int) -> None:
        """Continue with the batch at `position`."""
        self.position = self.sampler.start = position
        loader = training_batches(
            self.dataset, self.sampler, self.processor, self.num_workers, pin_memory=self.device.type == "cuda"
        )
        with _preserve_handler(signal.SIGCHLD):
            self._iterator = iter(loader)

    def read_from(self, cache: FrameCache) -> None:
        """Take the following batches from another cache of the same media."""
        self.dataset.cache = cache
        self.start_at(self.position)

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            ClipBertError: workers keep dying, or a frame cannot be read (`CorruptShardError`).
        """
        for _ in range(MAX_FAILURES):
            try:
                batch = next(self._iterator)
            except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
                # the last three are raised when a worker dies while it passes on a batch
                if self.num_workers == 0 or (isinstance(error, RuntimeError) and not _is_worker_death(error)):
                    raise
                reason = str(error).partition("\n")[0] or type(error).__name__
                errors.print(f"A data loader process died ({reason}); a new one loads its batches again.")
                self.start_at(self.position)
            else:
                if isinstance(batch, FailedSample):
                    raise batch.error
                self.position += 1
                return self._to_device(batch)
        raise ClipBertError(
            f"train.num_workers = {self.num_workers}: data loader processes died {MAX_FAILURES} times in a row "
            f"({reason}), most often for lack of memory. Set train.num_workers to fewer, or to 0 to load in the "
            "training process, and rerun the command: it resumes from the last checkpoint."
        )

    def _to_device(self, batch: Batch) -> Batch:
        """Copy a batch to the device; on a GPU in a separate stream, while the previous step still runs."""
        if self.stream is None:
            return batch
        with torch.cuda.stream(self.stream):
            moved = batch.to(self.device)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for value in vars(moved).values():
            if isinstance(value, torch.Tensor):
                value.record_stream(current)
        return moved


def _is_worker_death(error: RuntimeError) -> bool:
    return any(text in str(error) for text in WORKER_DIED)


def _fork_server() -> ForkServerContext:
    """Return the context whose server imports this module once; each worker is a fork of it and starts at once.

    Workers cannot be forks of the training process itself, which has threads and a CUDA context.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _start_worker(worker: int) -> None:
    """Ignore Ctrl-C, which the terminal sends to the whole process group, and end with the training process.

    The loader's own check for a dead training process looks at the parent, which here is the fork server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    training = multiprocessing.parent_process()
    assert training is not None

    def end_with_training() -> None:
        training.join()
        os._exit(1)

    threading.Thread(target=end_with_training, daemon=True).start()


@contextlib.contextmanager
def _preserve_handler(number: signal.Signals) -> Iterator[None]:
    """Restore the handler of a signal after the block.

    When a worker dies, torch's handler raises wherever the training is, for example in the middle of an optimizer step.
    Taking the next batch raises too, but between two steps.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before if before is not None else signal.SIG_DFL)
