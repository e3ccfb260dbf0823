"""Contrastive loss of one rank of a gloo group, for tests/distributed/test_collectives.py; run by path as a process."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from clipbert.model import ClipBertConfig, ClipBertForRetrieval
from clipbert.model.activation_checkpointing import set_microbatches
from clipbert.tasks.batch import Batch
from clipbert.tasks.contrastive import contrastive_loss


@dataclass
class Case:
    """A joined batch of texts and videos, and how many of its rows each of two ranks has."""

    keys: list[int]
    shares: tuple[int, int]
    parts: int = 1  # in which each rank computes its rows
    spans: list[list[float]] | None = None  # start and end of each row's segment

    def rows(self, rank: int) -> slice:
        return slice(0, self.shares[0]) if rank == 0 else slice(self.shares[0], len(self.keys))


CASES = {
    "even": Case([1, 2, 3, 4], (2, 2)),
    "uneven": Case([1, 2, 3, 4, 5], (4, 1)),
    "a video on both ranks": Case([1, 2, 3, 2, 5], (2, 3)),
    "segments": Case([1, 2, 1, 1, 5], (2, 3), spans=[[0, 8], [0, 8], [4, 12], [9, 20], [0, 8]]),
    "in parts": Case([1, 2, 3, 4, 5], (3, 2), parts=2),
}


def model() -> ClipBertForRetrieval:
    torch.manual_seed(0)
    vision = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1]}
    config = ClipBertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=16,
        max_text_length=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_std=[58.0, 57.0, 56.0],
        initializer_range=0.2,
        vision=vision,
        projection_size=8,
    )
    return ClipBertForRetrieval(config).double().train()


def joined(count: int) -> dict[str, Tensor]:
    """`count` videos of two clips with a text each, of twelve tokens or, in the odd rows, of three."""
    random = torch.Generator().manual_seed(count)
    mask = torch.ones(count, 12, dtype=torch.long)
    mask[1::2, 3:] = 0
    return {
        "pixel_values": torch.randint(0, 256, (count, 2, 1, 3, 64, 64), generator=random, dtype=torch.uint8),
        "input_ids": torch.randint(5, 40, (count, 12), generator=random) * mask,
        "attention_mask": mask,
    }


def computed(case: Case, rows: slice) -> dict[str, Any]:
    """Loss, similarity and every parameter's gradient of these rows of the joined batch."""
    some = {name: value[rows] for name, value in joined(len(case.keys)).items()}
    judge = model()
    set_microbatches(judge, case.parts)
    loss, similarity = contrastive_loss(
        judge,
        judge.encode_video(some["pixel_values"]),
        some["input_ids"],
        some["attention_mask"],
        Batch(
            **dict.fromkeys(("pixel_values", "labels", "texts_per_video", "texts_per_item"), torch.empty(0)),
            input_ids=some["input_ids"],
            attention_mask=some["attention_mask"],
            ids=[],
            media_keys=torch.tensor(case.keys[rows]),
            spans=None if case.spans is None else torch.tensor(case.spans)[rows],
            videos_per_rank=case.shares,
        ),
    )
    loss.backward()
    gradients = {name: value.grad for name, value in judge.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), "similarity": similarity.detach(), "gradients": gradients}


def main(rank: int, store: Path, out: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=2)
    torch.save({name: computed(case, case.rows(rank)) for name, case in CASES.items()}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
