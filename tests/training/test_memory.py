"""Detection of out-of-memory errors, and advice that names settings with their values."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from clipbert.config.training import TrainParams
from clipbert.model import ClipBertConfig
from clipbert.training.memory import advice, is_out_of_memory

STARVED = """
import resource, torch
from clipbert.training.memory import is_out_of_memory
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    torch.empty(1 << 36)
except Exception as error:
    print(type(error).__name__, is_out_of_memory(error))
"""

CHURN = """
import resource, torch
from clipbert.training.memory import keep_freed_memory
print(keep_freed_memory())
def step():
    for _ in range(4):
        torch.ones(1 << 24)
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt for _ in range(12) if not step()]
print(min(later - before for before, later in zip(faults, faults[1:])))
"""


GIVEN_BACK = """
import torch
from clipbert.training.memory import freed_memory_kept
def resident():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))
torch.ones(1 << 20)
before = resident()
with freed_memory_kept(torch.device("cpu")):
    torch.ones(1 << 27)
    kept = resident()
print(kept - before, resident() - before)
"""


SHAPES = """
from clipbert.training.memory import limit_cached_operations
limit_cached_operations()
import torch
for rows in (16, *range(17, 317), 16, 316):
    print("rows", rows, flush=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.nn.functional.linear(torch.ones(rows, 64), torch.ones(64, 64))
"""


def said_by(script: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_is_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.slow
def test_a_real_shortage_on_the_cpu() -> None:
    assert said_by(STARVED) == ["RuntimeError", "True"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again() -> None:
    kept, faults = said_by(CHURN)
    assert kept == "True"
    assert int(faults) < (1 << 26) / resource.getpagesize() / 10


def test_advice_names_settings_and_values() -> None:
    said = advice(
        TrainParams(batch_size=32, gradient_accumulation_steps=2, auto_microbatch=False), ClipBertConfig.base(clips=4)
    )
    for words in (
        "train.auto_microbatch to true (now false)",
        "train.activation_checkpointing to true (now false)",
        "train.batch_size to 16 (now 32) with train.gradient_accumulation_steps 4 (now 2)",
        "model.clips to 2 (now 4)",
        "model.frames_per_clip to 1 (now 2)",
        "model.image_size to 320 (now 448)",
    ):
        assert words in said


def test_advice_leaves_out_what_is_at_its_least() -> None:
    params = TrainParams(batch_size=1, activation_checkpointing=True)
    said = advice(params, ClipBertConfig.tiny())
    assert "batch_size" not in said
    assert "clips" not in said
    assert "activation_checkpointing" not in said
    assert "model.image_size to 64 (now 96)" in said


@pytest.mark.slow
def test_what_a_training_kept_goes_back_when_it_ends() -> None:
    kept, left = map(int, said_by(GIVEN_BACK))  # MB, of 512 that were freed
    assert kept > 400
    assert left < 100


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(("capacity", "oldest"), [(None, "cache_miss"), ("1024", "cache_hit")])
def test_the_compiled_operations_of_some_hundred_shapes_are_kept(capacity: str | None, oldest: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    environment |= {"ONEDNN_VERBOSE": "profile_create", "OMP_NUM_THREADS": "1"}
    if capacity is not None:
        environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = capacity
    said = subprocess.run([sys.executable, "-c", SHAPES], capture_output=True, text=True, check=True, env=environment)
    *_, first_again, last_again = said.stdout.split("rows ")
    if "create:" not in last_again:
        pytest.skip("this CPU multiplies in bf16 without oneDNN")
    assert oldest in first_again
    assert "cache_hit" in last_again
