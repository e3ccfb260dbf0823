"""Search over a library of videos: an index of clip vectors, whose best candidates the cross-encoder ranks again."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipbert.search.build import add_videos, build_index, merge_indexes, remove_videos
    from clipbert.search.hits import Hit, IndexInfo
    from clipbert.search.index import SearchIndex
    from clipbert.search.sources import VideoSource

_HOMES = {
    "Hit": "hits",
    "IndexInfo": "hits",
    "SearchIndex": "index",
    "VideoSource": "sources",
    "add_videos": "build",
    "build_index": "build",
    "merge_indexes": "build",
    "remove_videos": "build",
}
__all__ = [
    "Hit",
    "IndexInfo",
    "SearchIndex",
    "VideoSource",
    "add_videos",
    "build_index",
    "merge_indexes",
    "remove_videos",
]


def __getattr__(name: str) -> Any:
    """Import a name on first use: processes that decode files import this package without torch and faiss."""
    if name in _HOMES:
        return getattr(import_module(f"clipbert.search.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
