"""torch.compile that never ends a training: where it fails, the module goes on as it was."""

from typing import Any

import torch
from torch import nn

from clipbert.console import console
from clipbert.errors import first_line
from clipbert.training.memory import is_out_of_memory

RECOMPILATIONS = 16  # of one function, before the rest of its shapes runs uncompiled


class Compiled(nn.Module):
    """A module compiled for any length of text; its parameters bear the names they have without it in `module`.

    Compilation happens at the first call, and at later ones with new shapes; an error of the compiler, not of the
    module, ends it for good with one line that says why.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._fast: Any = None
        torch._dynamo.config.recompile_limit = RECOMPILATIONS
        try:
            self._fast = torch.compile(module.forward, dynamic=True)
        except Exception as error:  # not on this platform or Python
            self._give_up(error)

    @property
    def on(self) -> bool:
        """Whether calls still go through the compiled module."""
        return self._fast is not None

    def forward(self, *arguments: Any, **named: Any) -> Any:
        if self._fast is None:
            return self.module(*arguments, **named)
        try:
            return self._fast(*arguments, **named)
        except Exception as error:
            if is_out_of_memory(error) or not _of_the_compiler(error):
                raise
            self._give_up(error)
            return self.module(*arguments, **named)

    def _give_up(self, error: Exception) -> None:
        self._fast = None
        torch._dynamo.reset()
        console.print(
            f"Training goes on without torch.compile: {type(error).__name__}: {first_line(error)}", markup=False
        )


def compiled(module: nn.Module, on: bool) -> nn.Module:
    """The module, compiled where `on` (`train.compile`) and where that works."""
    return Compiled(module) if on else module


def _of_the_compiler(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, came from torch's compiler or the C++ compiler and Triton behind it."""
    while error is not None:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch", "triton")):
            return True
        trace = error.__traceback__
        while trace is not None:
            module = trace.tb_frame.f_globals.get("__name__", "")
            if module.startswith(("torch._inductor", "torch.fx.experimental", "triton")):
                return True
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return False
