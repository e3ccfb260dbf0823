"""Checks for folders of a project that are symbolic links to another disk (docs/tutorial/own-data.md)."""

import configparser
import os
from pathlib import Path

from clipbert.errors import ClipBertError

ADVICE = "See 'Data on a larger disk' in docs/tutorial/own-data.md."


def check_artifacts(root: Path) -> None:
    """Check before a stage runs that its outputs can be written and tracked.

    Args:
        root: the project's folder.

    Raises:
        ClipBertError: `artifacts` is a link and DVC runs the stage, or a folder in it is a link.
    """
    artifacts = root / "artifacts"
    if artifacts.is_symlink() and os.environ.get("DVC_STAGE"):
        raise ClipBertError(
            f"{artifacts}: is a symbolic link, and DVC tracks no outputs behind one. Remove the link, and put DVC's "
            f"cache on the larger disk instead, or bind-mount the folder. {ADVICE}"
        )
    if artifacts.is_dir():
        for folder in sorted(artifacts.iterdir()):
            if folder.is_symlink():
                raise ClipBertError(
                    f"{folder}: is a symbolic link; stages replace this folder whole and cannot replace a link. Remove "
                    f"the link, or link or bind-mount {artifacts} instead. {ADVICE}"
                )


def check_data(data: Path) -> None:
    """Check before ingest that the media folders of `data` lie in it.

    Raises:
        ClipBertError: `data/videos` or another folder directly in `data` is a link that leads out of it.
    """
    root = data.resolve()
    for folder in sorted(data.iterdir()) if data.is_dir() else ():
        if folder.is_symlink() and folder.is_dir() and not folder.resolve().is_relative_to(root):
            raise ClipBertError(
                f"{folder}: is a symbolic link that leads out of {data} (to {folder.resolve()}). It is not followed, "
                "and DVC would not version what is behind it. Move the folder into data/, or bind-mount it there. "
                f"{ADVICE}"
            )


def writable_data(data: Path) -> Path:
    """Return the folder that an import writes when `data` may be a link: what the link points to.

    Raises:
        ClipBertError: the link points to a mount point, which cannot be replaced.
    """
    if not data.is_symlink():
        return data
    target = data.resolve()
    if os.path.ismount(target):
        raise ClipBertError(
            f"{data}: is a link to {target}, the top folder of a disk, which cannot be replaced as a whole. Link a "
            f"folder on that disk, such as {target / 'data'}. {ADVICE}"
        )
    return target


def dvc_caches(root: Path) -> list[Path]:
    """Return the folders in which DVC keeps the files of a project, to which it may link files of `data/`."""
    found = [root / ".dvc" / "cache"]
    for name in ("config", "config.local"):
        config = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            config.read(root / ".dvc" / name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        if folder := config.get("cache", "dir", fallback=None):
            found.append(root / ".dvc" / folder)  # a relative one is relative to the configuration
    return [folder.resolve() for folder in found]
