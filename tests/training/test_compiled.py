"""A compiled module gives the same numbers; a failing compiler ends compilation, not the training."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from clipbert.training import compiled as module
from clipbert.training.compiled import CompiledModule, compile_module

pytestmark = pytest.mark.slow


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if values.shape[0] == 13:
            raise ValueError("thirteen rows")
        total = (self.scale * values).relu().sum()
        return total, {"total": total.detach()}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No compiled code of another test, and no cache on disk that would spare the compiler."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


WITHOUT_COMPILER = """
import torch
from torch import nn
from clipbert.training.compiled import compile_module
fast = compile_module(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), True)
for _ in range(2):
    fast(torch.ones(2, 3)).sum().backward()
print(fast.enabled, fast.module[0].weight.grad is not None)
"""


def test_off_is_the_module_itself():
    plain = Sum()
    assert compile_module(plain, False) is plain


def test_same_value_and_gradient_for_several_lengths_of_text():
    torch.set_num_threads(1)
    fast = compile_module(Sum(), True)
    for length in (8, 16, 24):
        values = torch.randn(4, length)
        loss, parts = fast(values)
        loss.backward()
        assert loss.item() == pytest.approx(values.relu().sum().item(), rel=1e-5)
        assert parts["total"] == loss
        assert fast.module.scale.grad.item() == pytest.approx(loss.item(), rel=1e-5)
        fast.module.scale.grad = None
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_no_cpp_compiler_goes_on_without_and_says_why_once(tmp_path):
    environment = {**os.environ, "CXX": "/nonexistent/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == ["False", "True"]
    assert done.stdout.count("Training continues without torch.compile") == 1


def test_a_failure_at_a_later_call(monkeypatch):
    fast = compile_module(Sum(), True)

    def broken(*_):
        raise torch._dynamo.exc.InternalTorchDynamoError("broken")

    fast(torch.ones(2, 3))
    assert fast.enabled
    fast._compiled = broken
    assert fast(torch.ones(2, 3))[0].item() == 6
    assert not fast.enabled


def test_no_torch_compile_at_all(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr(module.torch, "compile", refuse)
    assert compile_module(Sum(), True)(torch.ones(2, 3))[0].item() == 6


def test_the_module_s_own_errors_are_its_own():
    fast = compile_module(Sum(), True)
    with pytest.raises(ValueError, match="thirteen rows"):
        fast(torch.ones(13, 3))
    assert fast.enabled


def test_a_shortage_of_memory_is_not_the_compiler_s_failure():
    fast = CompiledModule(Sum())

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    fast._compiled = full
    with pytest.raises(torch.OutOfMemoryError):
        fast(torch.ones(2, 3))
    assert fast.enabled
