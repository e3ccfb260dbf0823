"""ClipBERT: train, version, compare, promote and use sparse video-and-language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipbert.inference.pipelines import pipeline

__all__ = ["__version__", "pipeline"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import `clipbert.pipeline`, which needs torch, on first use."""
    if name == "pipeline":
        from clipbert.inference.pipelines import pipeline

        return pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
