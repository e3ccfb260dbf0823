"""From the frame cache to batches: which video, which clips, which texts, all a function of (seed, epoch, video)."""

import contextlib
import hashlib
import itertools
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from clipbert.console import errors
from clipbert.errors import ClipBertError
from clipbert.frame_cache import FrameCache
from clipbert.sampling.clips import random_clips
from clipbert.tasks.base import Batch, Example, Task
from clipbert.tasks.predict import ProcessorTokens, pixels

LOSSES_IN_A_ROW = 3
# What torch's DataLoader says of a process that is gone, and of its thread that was handed half a batch by one.
LOSSES = ("DataLoader worker", "Pin memory thread")

Key = tuple[int, int, bool]  # epoch, example, whether its frames are wanted


@dataclass(frozen=True)
class Sample:
    """One drawn example: frames (K*T, H, W, 3) uint8 in clip order, and the drawn texts, in one list an item.

    Another process has the frames of the samples that have none here.
    """

    media: str
    images: np.ndarray | None
    texts: list[list[str]]
    labels: list[Any]
    ids: list[str]
    caption: str | None
    seed: int  # of what is drawn later, from the tokens


@dataclass(frozen=True)
class FailedSample:
    """In the place of a sample or a batch that could not be made: what to raise, without a loader's traceback."""

    error: ClipBertError


class DistributedBatchSampler(Sampler[list[Key]]):
    """Batches of (epoch, example, own), `gradient_accumulation_steps` of them for every step, from batch `start` on.

    Each epoch is a new permutation made from (seed, epoch) alone, so a resumed run goes on in the very order it left;
    a step has the same examples however they are cut into batches, and however many processes share a batch: each has
    consecutive videos of it, as many as the others or one more. The remainder that does not fill a step is left out,
    another one each epoch. Without `epochs` there is no end.

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
        """The epoch, from 0, of the step that follows `step` steps."""
        return step // self.steps_per_epoch

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("an order without epochs has no length")
        return self.steps * self.gradient_accumulation_steps - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        batches_per_epoch = self.steps_per_epoch * self.gradient_accumulation_steps
        epoch, first = divmod(self.start, batches_per_epoch)
        while self.epochs is None or epoch < self.epochs:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.examples)
            for part in range(first, batches_per_epoch):
                some = order[part * self.batch_size : (part + 1) * self.batch_size]
                own = range(self.batch_size)[self.own]
                yield [(epoch, int(index), at in own) for at, index in enumerate(some)]
            epoch, first = epoch + 1, 0


class TrainingSamples(Dataset[Sample | FailedSample]):
    """Draws sparse random clips and texts of a video; the same (epoch, index) always gives the same draw."""

    def __init__(self, cache: FrameCache, examples: list[Example], task: Task, config: Any, seed: int) -> None:
        self.cache, self.examples, self.task, self.config, self.seed = cache, examples, task, config, seed
        self.captions = task.uses_captions(examples)

    def __getitem__(self, key: Key) -> Sample | FailedSample:
        try:
            return self.draw(*key)
        except ClipBertError as error:
            return FailedSample(error)

    def draw(self, epoch: int, index: int, own: bool = True) -> Sample:
        """What a visit of an example is, with its frames or without.

        Raises:
            ClipBertError: its frames cannot be read (`CorruptShardError`).
        """
        example = self.examples[index]
        generator = np.random.default_rng([self.seed, epoch, index])
        frames = random_clips(
            self.cache.num_frames(example.media), self.config.clips, self.config.frames_per_clip, generator
        )
        chosen = self.task.draw(example, generator)
        return Sample(
            media=example.media,
            images=self.cache.read(example.media, frames.flatten()) if own else None,
            texts=[self.task.wording(example, i) for i in chosen],
            labels=self.task.labels(example, chosen, self.config),
            ids=[example.ids[i] for i in chosen],
            caption=str(generator.choice(example.captions)) if self.captions else None,
            seed=int(generator.integers(2**63)),
        )


class Collate:
    """Samples to a `Batch` through the model's processor.

    The texts of the whole batch are padded to its longest and prepared together, so that each process has what one
    alone would have; then it keeps those of the videos whose frames it has.
    """

    def __init__(self, processor: Any, task: Task, config: Any, videos_per_rank: tuple[int, ...] = ()) -> None:
        self.processor, self.task, self.config, self.videos_per_rank = processor, task, config, videos_per_rank

    def __call__(self, drawn: list[Sample | FailedSample]) -> Batch | FailedSample:
        unmade = [sample for sample in drawn if isinstance(sample, FailedSample)]
        if unmade:
            return unmade[0]
        samples = [sample for sample in drawn if isinstance(sample, Sample)]
        items = [texts for sample in samples for texts in sample.texts]
        encoded = self.processor(texts=[text for texts in items for text in texts])
        captions = [sample.caption for sample in samples if sample.caption is not None]
        captioned = self.processor(texts=captions) if captions else {}
        clips, frames_per_clip = self.config.clips, self.config.frames_per_clip
        own = [sample.images is not None for sample in samples]
        frames = [sample.images for sample in samples if sample.images is not None]
        batch = Batch(
            pixel_values=torch.stack([pixels(self.processor, images, clips, frames_per_clip) for images in frames]),
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            texts_per_video=torch.tensor([sum(map(len, sample.texts)) for sample in samples]),
            labels=torch.tensor([label for sample in samples for label in sample.labels]),
            ids=[text_id for sample in samples for text_id in sample.ids],
            texts_per_item=torch.tensor([len(texts) for texts in items]),
            caption_ids=captioned.get("input_ids"),
            caption_mask=captioned.get("attention_mask"),
            media_keys=torch.tensor([media_key(sample.media) for sample in samples]),
            media=tuple(sample.media for sample in samples),
        )
        tokenize = ProcessorTokens(self.processor, torch.device("cpu"))
        batch = self.task.prepare(batch, [sample.seed for sample in samples], tokenize, self.config)
        if all(own):
            return batch
        first = own.index(True)
        batch = replace(batch, videos_per_rank=self.videos_per_rank)
        return batch.of_videos(slice(first, first + len(frames)), torch.tensor([len(s.texts) for s in samples]))


def media_key(media: str) -> int:
    """A video's name as a signed 64-bit number: what ranks can compare."""
    return int.from_bytes(hashlib.sha256(media.encode()).digest()[:8], signed=True)


def training_batches(
    dataset: TrainingSamples, order: DistributedBatchSampler, processor: Any, num_workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """The batches of a run from `order.start` on, made in `num_workers` processes (0: in this one)."""
    return DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=Collate(processor, dataset.task, dataset.config, order.videos_per_rank),
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context="spawn" if num_workers else None,
        worker_init_fn=_ignore_interrupts if num_workers else None,
        # Its own generator: otherwise making an iterator draws from the one whose state a checkpoint restores.
        generator=torch.Generator().manual_seed(dataset.seed),
    )


class Batches:
    """The batches of a run, one after another, on the device.

    A loader process that dies is replaced, and its batches are made again: they are a function of their position.
    """

    def __init__(
        self,
        dataset: TrainingSamples,
        order: DistributedBatchSampler,
        processor: Any,
        num_workers: int,
        device: torch.device,
    ) -> None:
        self.dataset, self.order, self.processor, self.num_workers, self.device = (
            dataset,
            order,
            processor,
            num_workers,
            device,
        )
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.start_at(order.start)

    def start_at(self, position: int) -> None:
        """Go on with the batch at `position`, counted from the start of the run."""
        self.position = self.order.start = position
        loader = training_batches(
            self.dataset, self.order, self.processor, self.num_workers, pin_memory=self.device.type == "cuda"
        )
        with _kept_signal(signal.SIGCHLD):
            self._made = iter(loader)

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            ClipBertError: loader processes keep dying, or a frame cannot be read (`CorruptShardError`).
        """
        for _ in range(LOSSES_IN_A_ROW):
            try:
                batch = next(self._made)
            except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
                # the latter three where it died while it handed over a batch
                if self.num_workers == 0 or (isinstance(error, RuntimeError) and not _says_lost(error)):
                    raise
                lost = str(error).partition("\n")[0] or type(error).__name__
                errors.print(
                    f"A loader process is gone ({lost}); its batches are made again by a new one.", markup=False
                )
                self.start_at(self.position)
            else:
                if isinstance(batch, FailedSample):
                    raise batch.error
                self.position += 1
                return self._moved(batch)
        raise ClipBertError(
            f"train.num_workers = {self.num_workers}: loader processes died {LOSSES_IN_A_ROW} times in a row ({lost}), "
            "most often for lack of memory. Set train.num_workers to fewer, or to 0 to load in the training process, "
            "and rerun the command: it resumes from the last checkpoint."
        )

    def _moved(self, batch: Batch) -> Batch:
        """On the device; on a GPU copied beside what it still computes of the step before."""
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


def _says_lost(error: RuntimeError) -> bool:
    return any(words in str(error) for words in LOSSES)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C goes to the whole group; the training process decides when its loaders end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _kept_signal(number: signal.Signals) -> Iterator[None]:
    """A signal's handler stays what it was.

    torch's raises wherever the training is, in the middle of an optimiser step, say, when a loader process dies. The
    next batch tells as much, between two steps.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before if before is not None else signal.SIG_DFL)
