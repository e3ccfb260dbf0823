"""Number type of matrix products and convolutions; weights, gradients and the optimizer are always fp32."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipbert.errors import ClipBertError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_CAPABILITY = (8, 0)  # NVIDIA Ampere: the first with bf16 tensor cores
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86's, and ARM's, as Linux names them
# In narrower encoders the casts cost more than the products gain (docs/concepts/performance.md).
MIN_HIDDEN_SIZE_FOR_BF16_ON_CPU = 256


@dataclass(frozen=True)
class Precision:
    """Number type of a training, with the reason for its choice."""

    name: str  # "fp32", "bf16" or "fp16"
    why: str  # one line for the log
    device: torch.device
    scaler: Any = None  # torch.amp.GradScaler, for fp16 alone

    @classmethod
    def choose(cls, setting: str, device: torch.device, config: Any) -> "Precision":
        """Resolve `train.precision` ("auto", "fp32", "bf16" or "fp16") for a device and a model's configuration.

        With fp32 on a GPU, matrix products and convolutions use TF32 if the GPU has it: inputs are rounded to 10 bits
        of mantissa (bf16 has 7) and run several times faster. This setting applies to the whole process.

        Raises:
            ClipBertError: fp16 on a CPU.
        """
        if setting == "fp16" and device.type == "cpu":
            raise ClipBertError(
                "params.yaml: train.precision is fp16, but this machine trains on its CPU, which has no fast fp16: "
                "expected auto, bf16 or fp32. Set train.precision to auto."
            )
        if device.type == "cuda":
            allow_tf32()
        best, reason = _best(device, config)
        if setting == "auto":
            name, why = best, reason
        else:
            name, why = setting, "as train.precision asks"
            if name == "bf16" and not has_bf16(device):
                why += "; this device has no bf16 instructions, so it will be slower than fp32"
        scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None
        return cls(name, f"Precision {name}: {why}.", device, scaler)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for the forward pass and the loss; the backward pass runs outside of it."""
        dtype = DTYPES[self.name]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def inference_precision(setting: str, device: torch.device, config: Any) -> Precision:
    """Resolve `evaluate.precision` ("auto", "fp32" or "bf16") for a device and a model's configuration.

    Fp32 is exact: it does not allow TF32 as a training does.
    """
    if setting != "auto":
        return Precision(setting, f"Precision {setting}: as evaluate.precision asks.", device)
    best, reason = _best(device, config)
    if best == "fp16":
        best, reason = "fp32", "this GPU is older than bf16 tensor cores"
    return Precision(best, f"Precision {best}: {reason}.", device)


def allow_tf32() -> None:
    """Let matrix products and convolutions of fp32 tensors on NVIDIA GPUs use TF32, in this process.

    These are the settings of torch 2.9 and later. The earlier ones (`allow_tf32`, `set_float32_matmul_precision`) must
    not be mixed with them: torch raises an error where it reads one kind after the other was set.
    """
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]


def has_bf16(device: torch.device) -> bool:
    """Return whether the device has bf16 instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    return device.type == "cpu" and any(flag in cpu_flags() for flag in BF16_FLAGS)


def cpu_flags() -> set[str]:
    """Return the processor's feature flags as named by Linux; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    known = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return set(next(known, "").split())


def _best(device: torch.device, config: Any) -> tuple[str, str]:
    """Return the fastest number type that trains as well as fp32, and the reason."""
    if device.type == "cuda":
        if has_bf16(device):
            return "bf16", "this GPU has bf16 tensor cores"
        return "fp16", "this GPU is older than bf16 tensor cores; the loss is scaled"
    if not has_bf16(device):
        return "fp32", "this device has no bf16 instructions"
    if config.hidden_size < MIN_HIDDEN_SIZE_FOR_BF16_ON_CPU:
        return "fp32", f"a model of hidden_size {config.hidden_size} gains nothing from bf16 on a CPU"
    return "bf16", "this CPU has bf16 instructions"
