"""torch.compile with a fallback: where compilation fails, training continues with the uncompiled module."""

from typing import Any

import torch
from torch import nn

from clipbert.console import console
from clipbert.errors import first_line
from clipbert.training.memory import is_out_of_memory

RECOMPILATIONS = 16  # of one function, before its further shapes run uncompiled


class CompiledModule(nn.Module):
    """Module compiled for dynamic text lengths; parameter names are those of `module`.

    It is compiled at the first call and at later calls with new shapes. After an error of the compiler, as opposed to
    one of the module, all further calls run uncompiled, and a line with the reason is printed.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._compiled: Any = None
        torch._dynamo.config.recompile_limit = RECOMPILATIONS
        try:
            self._compiled = torch.compile(module.forward, dynamic=True)
        except Exception as error:  # unsupported platform or Python version
            self._disable(error)

    @property
    def enabled(self) -> bool:
        """Whether calls use the compiled module."""
        return self._compiled is not None

    def forward(self, *arguments: Any, **named: Any) -> Any:
        if self._compiled is None:
            return self.module(*arguments, **named)
        try:
            return self._compiled(*arguments, **named)
        except Exception as error:
            if is_out_of_memory(error) or not _is_compiler_error(error):
                raise
            self._disable(error)
            return self.module(*arguments, **named)

    def _disable(self, error: Exception) -> None:
        self._compiled = None
        torch._dynamo.reset()
        console.print(f"Training continues without torch.compile: {type(error).__name__}: {first_line(error)}")


def compile_module(module: nn.Module, enabled: bool) -> nn.Module:
    """Return the module, compiled if `enabled` (`train.compile`)."""
    return CompiledModule(module) if enabled else module


def _is_compiler_error(error: BaseException | None) -> bool:
    """Return whether an error or one of its causes comes from torch's compiler or its C++ and Triton backends."""
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
