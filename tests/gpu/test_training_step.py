"""One training step on the GPU is the step the CPU makes."""

import pytest
import torch

from clipbert.model import ClipBertConfig, ClipBertForOpenQA, ClipBertForRetrieval
from clipbert.task_params import RetrievalParams
from clipbert.tasks.base import Batch
from clipbert.tasks.retrieval import Retrieval
from clipbert.train.loop import autocast
from clipbert.train.optim import make_optimizer
from clipbert.train_params import TrainParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]


def batch(videos: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        pixel_values=torch.randint(0, 256, (videos, 2, 2, 3, 96, 96), dtype=torch.uint8, generator=generator),
        input_ids=torch.randint(5, 100, (videos, 16), generator=generator),
        attention_mask=torch.ones(videos, 16, dtype=torch.long),
        texts_per_video=torch.ones(videos, dtype=torch.long),
        labels=torch.ones(videos, dtype=torch.long),
        ids=[str(i) for i in range(videos)],
    )


def losses(device: str, precision: str) -> list[float]:
    torch.manual_seed(0)
    config = ClipBertConfig.tiny(vocab_size=128, hidden_dropout_prob=0.0, projection_size=64)
    model = ClipBertForRetrieval(config).to(device).train()
    optimizer = make_optimizer(model, TrainParams(lr=1e-3))
    # Every other text is a negative, so nothing is left to chance and both devices see the same pairs.
    task, some = Retrieval(RetrievalParams(negatives=3)), batch().to(torch.device(device))
    seen = []
    for _ in range(3):
        with autocast(torch.device(device), precision):
            loss, _ = task.loss(model, some)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def test_fp32_steps_agree_with_the_cpu() -> None:
    assert losses("cuda", "fp32") == pytest.approx(losses("cpu", "fp32"), rel=2e-2)


def test_bf16_trains_with_fp32_weights() -> None:
    assert losses("cuda", "bf16") == pytest.approx(losses("cpu", "fp32"), rel=0.1)


def test_the_paper_size_fits_and_reaches_every_part() -> None:
    config = ClipBertConfig.base(answers=["a", "b"], clips=2)
    model = ClipBertForOpenQA(config).cuda().train()
    pixels = torch.randint(0, 256, (1, 2, 2, 3, 448, 448), dtype=torch.uint8, device="cuda")
    with autocast(torch.device("cuda"), "bf16"):
        out = model(
            pixel_values=pixels,
            input_ids=torch.randint(5, 100, (1, 16), device="cuda"),
            labels=torch.tensor([1], device="cuda"),
        )
    out.loss.backward()
    first = next(p for name, p in model.named_parameters() if "vision" in name and p.ndim == 4)
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()
