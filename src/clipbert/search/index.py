"""Search: the nearest clips by their vectors, then the cross-encoder over the best of them."""

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipbert.errors import ClipBertError
from clipbert.model.weights.init_from import digest
from clipbert.search.build import resolved
from clipbert.search.encode import frames_params
from clipbert.search.hits import Hit, IndexInfo
from clipbert.search.index_file import IndexState, read_state
from clipbert.search.segment import Segment, metadata_of
from clipbert.search.writer import other_model
from clipbert.tasks.scoring import match_scores

logger = logging.getLogger(__name__)

K, RERANK = 10, 30
ATTEMPTS = 5
CLIPS_PER_VIDEO = 2  # of the first look; more are read where the best clips are of few videos

Where = Mapping[str, Any]


@dataclass(frozen=True)
class _Candidate:
    """Best clip of a video: its segment, its row there, and the cosine similarity."""

    segment: Segment
    row: int
    video: int
    cosine: float


class SearchIndex:
    """Index that is open for searching, as it was when it was opened; safe to use from several threads.

    Files are mapped into memory. What other processes add meanwhile is found after `open` is called again.
    """

    def __init__(self, folder: Path, state: IndexState, segments: Sequence[Segment]) -> None:
        self.folder, self.state, self.segments = folder, state, list(segments)
        self._checked: weakref.WeakSet[Any] = weakref.WeakSet()

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> "SearchIndex":
        """Open the index of a folder.

        Args:
            verify: check all files against their checksums, except for the visual tokens, which are checked when they
                are read.

        Raises:
            ClipBertError: the index is missing or damaged.
        """
        folder = Path(folder)
        for _ in range(ATTEMPTS):
            state = read_state(folder)
            try:
                return cls(folder, state, [Segment(folder, record, verify) for record in state.segments])
            except FileNotFoundError as error:  # another process has merged the segment since, or it is lost
                missing = error
        raise ClipBertError(
            f"{missing}: the index names this segment, but it is not there. Remove the folder {folder} and make the "
            "index again: clipbert index build"
        )

    def __len__(self) -> int:
        """Return the number of videos."""
        return sum(segment.record.videos - len(segment.record.deleted) for segment in self.segments)

    @property
    def keys(self) -> list[str]:
        """Metadata columns, sorted."""
        return sorted({key for segment in self.segments for key in segment.keys})

    def info(self) -> IndexInfo:
        """Return what the index contains."""
        settings = self.state.settings
        inverted = any(segment.vectors.inverted for segment in self.segments)
        return IndexInfo(
            model=settings.model,
            model_name=self.state.model_name,
            videos=len(self),
            clips=sum(segment.live_clips for segment in self.segments),
            dimension=settings.dimension,
            bytes=sum(sum(segment.record.sizes.values()) for segment in self.segments),
            segments=len(self.segments),
            deleted=sum(len(segment.record.deleted) for segment in self.segments),
            failed=len(self.state.failures),
            backend=f"faiss, half precision, {'inverted files' if inverted else 'exact'}",
            clip_s=settings.clip_s,
            tokens=settings.tokens,
            keys=tuple(self.keys),
        )

    def video_ids(self) -> list[str]:
        """Return the names of all videos, sorted."""
        return sorted(
            name
            for segment in self.segments
            for name, live in zip(
                segment.videos.column("video_id").to_pylist(), segment.live_videos.tolist(), strict=True
            )
            if live
        )

    def search(
        self,
        pipeline: Any,
        text: str | None = None,
        video: Any = None,
        image: Any = None,
        k: int = K,
        where: Where | None = None,
        rerank: int = RERANK,
    ) -> list[Hit]:
        """Return the moments that match a text, or that look like an example, best first: one of each video.

        Args:
            pipeline: of the model that made the index.
            text: a description; or else
            video: a file, {"video", "start_s", "end_s"} or what else a pipeline takes; or else
            image: the same, of one picture.
            k: hits at most.
            where: {metadata column: value, or a list of accepted values}.
            rerank: how many of the best videos the cross-encoder scores, for a text; 0: none. The others follow them in
                the order of their similarity.

        Raises:
            ClipBertError: not one of text, video and image, an empty text, an unreadable example, an unknown metadata
                column, `k` or `rerank` out of range, another model, or damaged files.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ClipBertError(f"k is {k!r}: expected the number of hits, 1 or more.")
        if isinstance(rerank, bool) or not isinstance(rerank, int) or rerank < 0:
            raise ClipBertError(f"rerank is {rerank!r}: expected a number of videos, 0 or more.")
        given = [name for name, value in (("text", text), ("video", video), ("image", image)) if value is not None]
        if len(given) != 1:
            raise ClipBertError(
                f"{' and '.join(given) or 'nothing'} to search for: expected one of text, video and image."
            )
        self._check_model(pipeline)
        accepted = self._accepted(where or {})
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise ClipBertError(f"text is {text!r}: expected a description of what to find.")
        try:
            tokens = None if text is None else pipeline.tokenize([text])
            example = video if image is None else image
            query = _example_vector(pipeline, example) if tokens is None else _text_vector(pipeline, tokens)
        except (ValueError, MemoryError) as error:
            raise ClipBertError(str(error)) from error
        reranked = rerank if tokens is not None and pipeline.model.config.cross_encoder else 0
        found = self._candidates(query.numpy(), max(k, reranked), accepted)
        if tokens is None:
            return [self._hit(each, each.cosine) for each in found[:k]]
        scores = _similarities(pipeline, query, found)
        first, rest = list(range(len(found)))[:reranked], list(range(len(found)))[reranked:]
        again = self._rerank(pipeline, tokens, [found[place] for place in first])
        order = sorted((place for place in first if again[place] is not None), key=lambda place: -again[place])  # type: ignore[operator]
        hits = [self._hit(found[place], float(again[place] or 0.0), reranked=True) for place in order]
        hits += [self._hit(found[place], scores[place]) for place in (*(p for p in first if again[p] is None), *rest)]
        return hits[:k]

    def _check_model(self, pipeline: Any) -> None:
        """Check that the pipeline's model made the index.

        Raises:
            ClipBertError: another one did.
        """
        if pipeline in self._checked:
            return
        found = digest(Path(pipeline.folder))
        if found != self.state.settings.model:
            raise ClipBertError(other_model(self.folder, self.state, found, str(pipeline.folder)))
        self._checked.add(pipeline)

    def _accepted(self, where: Where) -> dict[str, list[str]]:
        """Return the accepted values of each filter as texts.

        Raises:
            ClipBertError: a column that no video has.
        """
        known = self.keys
        for key in where:
            if key not in known:
                raise ClipBertError(f"{key}: not a metadata column of {self.folder}: expected one of {_listed(known)}.")
        return {
            key: [str(each) for each in (value if isinstance(value, list | tuple | set) else [value])]
            for key, value in where.items()
        }

    def _candidates(self, query: NDArray[np.float32], wanted: int, where: dict[str, list[str]]) -> list[_Candidate]:
        """Return the best clip of each of the `wanted` most similar videos, best first."""
        allowed = [segment.allowed(where) for segment in self.segments]
        count = CLIPS_PER_VIDEO * wanted
        while True:
            every: list[_Candidate] = []
            more = False
            for segment, some in zip(self.segments, allowed, strict=True):
                scores, rows = segment.vectors.search(query, count, some)
                videos = segment.clips["video"][rows]
                every += [
                    _Candidate(segment, row, video, score)
                    for row, video, score in zip(rows.tolist(), videos.tolist(), scores.tolist(), strict=True)
                ]
                more |= len(rows) == count < len(segment.vectors)
            every.sort(key=lambda each: -each.cosine)
            # beyond the count-th best clip, a segment may have better clips than were read of it
            reliable = every[:count] if more else every
            best = {(id(each.segment), each.video): each for each in reversed(reliable)}
            found = sorted(best.values(), key=lambda each: -each.cosine)
            if len(found) >= wanted or not more:
                return found[:wanted]
            count *= 4

    def _rerank(self, pipeline: Any, tokens: tuple[Tensor, Tensor], found: list[_Candidate]) -> dict[int, float | None]:
        """Return the score of each candidate by its position; None for a file that cannot be read."""
        embeds = self._embeds(pipeline, found)
        good = [place for place, each in enumerate(embeds) if each is not None]
        scores: dict[int, float | None] = dict.fromkeys(range(len(found)))
        if good:
            stacked = torch.stack([each for each in embeds if each is not None]).to(pipeline.model.device)
            scores |= dict(zip(good, _scores(pipeline, tokens, stacked), strict=True))
        return scores

    def _embeds(self, pipeline: Any, found: list[_Candidate]) -> list[Tensor | None]:
        """Return the visual tokens (K, V, hidden) of candidates, from the index or from their files."""
        if self.state.settings.tokens:
            return [torch.from_numpy(each.segment.read_tokens(each.row).astype(np.float32)) for each in found]
        items = [self._item(each) for each in found]
        frames, clips = frames_params(self.state.settings), self.state.settings.clips
        embeds: list[Tensor | None] = []
        for each in pipeline.encode_each(items, clips, "skip", frames) if items else []:
            if isinstance(each, Exception):
                logger.warning("%s; it is ranked by its vector alone.", each)
                embeds.append(None)
            else:
                embeds.append(each)
        return embeds

    def _item(self, each: _Candidate) -> Any:
        """Return a candidate as a pipeline takes it: a whole video, or a segment of it."""
        row = each.segment.video(each.video)
        path, clip = resolved(self.folder, row["path"]), each.segment.clips[each.row]
        if row["clips"] == 1:
            return path
        return {"video": path, "start_s": float(clip["start_s"]), "end_s": float(clip["end_s"])}

    def _hit(self, each: _Candidate, score: float, reranked: bool = False) -> Hit:
        row, clip = each.segment.video(each.video), each.segment.clips[each.row]
        path, metadata = resolved(self.folder, row["path"]), metadata_of(row)
        return Hit(row["video_id"], path, float(clip["start_s"]), float(clip["end_s"]), score, metadata, reranked)


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys) if keys else "none, for its videos have no metadata"


@torch.inference_mode()
def _text_vector(pipeline: Any, tokens: tuple[Tensor, Tensor]) -> Tensor:
    found: Tensor = pipeline.model.get_text_features(*tokens)[0].float().cpu()
    return found


@torch.inference_mode()
def _example_vector(pipeline: Any, example: Any) -> Tensor:
    found: Tensor = pipeline.model.get_video_features(pipeline.encode([example]))[0].float().cpu()
    return found


@torch.inference_mode()
def _similarities(pipeline: Any, query: Tensor, found: list[_Candidate]) -> list[float]:
    """Return the dual encoder's similarities of candidates: its scale, and a bias if it has one, of their cosines."""
    most, least = pipeline.model.similarity(query[None], torch.stack([query, -query]))[0].tolist()
    return [(most + least) / 2 + each.cosine * (most - least) / 2 for each in found]


@torch.inference_mode()
def _scores(pipeline: Any, tokens: tuple[Tensor, Tensor], embeds: Tensor) -> list[float]:
    """Return the scores (N,) of a text with the visual tokens (N, K, V, hidden)."""
    model, count = pipeline.model, len(embeds)
    similarity = model.similarity(model.get_text_features(*tokens), model.get_video_features(embeds))[0].float()
    input_ids, attention_mask = (each.expand(count, -1) for each in tokens)
    return match_scores(model, embeds, input_ids, attention_mask, similarity, pipeline.batch_size).tolist()
