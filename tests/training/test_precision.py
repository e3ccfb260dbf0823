"""Which precision is chosen, what is said of it, and what it does to a product."""

import pytest
import torch

from clipbert.errors import ClipBertError
from clipbert.model import ClipBertConfig
from clipbert.training import precision as module
from clipbert.training.peak_rates import peak_tflops, published
from clipbert.training.precision import Precision, cpu_flags, has_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "preset", "expected"),
    [
        ({"avx2"}, "base", "fp32"),
        ({"avx2", "avx512_bf16"}, "base", "bf16"),
        ({"asimd", "bf16"}, "base", "bf16"),
        ({"avx2", "avx512_bf16"}, "tiny", "fp32"),
    ],
)
def test_auto_on_a_cpu(monkeypatch, flags, preset, expected):
    monkeypatch.setattr(module, "cpu_flags", lambda: flags)
    chosen = Precision.choose("auto", CPU, getattr(ClipBertConfig, preset)())
    assert chosen.name == expected
    assert chosen.why.startswith(f"Precision {expected}: ")
    assert chosen.scaler is None


def test_emulated_bf16_is_allowed_and_said(monkeypatch):
    monkeypatch.setattr(module, "cpu_flags", set)
    chosen = Precision.choose("bf16", CPU, ClipBertConfig.tiny())
    assert chosen.name == "bf16"
    assert "no bf16 instructions" in chosen.why


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ClipBertError, match=r"train\.precision is fp16, .* expected auto, bf16 or fp32"):
        Precision.choose("fp16", CPU, ClipBertConfig.tiny())


@pytest.mark.parametrize(("setting", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_decides_the_type_of_products(setting, dtype):
    with Precision.choose(setting, CPU, ClipBertConfig.tiny()).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_flags_are_those_of_this_machine():
    assert has_bf16(CPU) == bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


@pytest.mark.parametrize(
    ("name", "precision", "rate"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "fp16", 756.5),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "fp16", 989.4),
        ("NVIDIA H200", "fp32", 494.7),
        ("NVIDIA H200 NVL", "fp32", 417.5),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA H20", "bf16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("NVIDIA L40S", "bf16", 362.1),
        ("NVIDIA L4", "fp32", 60.0),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("Some other card", "fp32", None),
    ],
)
def test_published_rates(name, precision, rate):
    assert published(name, precision) == rate


def test_rate_of_this_cpu():
    assert 0.001 < peak_tflops(CPU, "fp32") < 1000


def test_fp32_on_a_gpu_uses_tf32_in_products_and_convolutions():
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    try:
        module.allow_tf32()
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
        # what torch.compile reads must not raise, as it does after a mix of earlier and later settings
        torch.compile(lambda x: x @ x, backend="eager")(torch.ones(2, 2))
    finally:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before
