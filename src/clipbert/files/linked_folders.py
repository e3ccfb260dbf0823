"""Checks of project folders that are symbolic links to another disk (docs/tutorial/own-data.md)."""

import configparser
import os
from pathlib import Path

from clipbert.errors import ClipBertError

ADVICE = "See 'Data on a larger disk' in docs/tutorial/own-data.md."


def check_artifacts(root: Path) -> None:
    """Check that a stage can write its outputs and that DVC can track them.

    Args:
        root: the project folder.

    Raises:
        ClipBertError: `artifacts` is a link and DVC runs the stage, or a folder in it is a link.
    """
    artifacts = root / "artifacts"
    if artifacts.is_symlink() and os.environ.get("DVC_STAGE"):
        raise ClipBertError(
            f"{artifacts}: is a symbolic link, and DVC does not track outputs behind a link. Remove the link, and "
            f"put DVC's cache on the larger disk instead, or bind-mount the folder. {ADVICE}"
        )
    if artifacts.is_dir():
        for folder in sorted(artifacts.iterdir()):
            if folder.is_symlink():
                raise ClipBertError(
                    f"{folder}: is a symbolic link; stages replace this folder as a whole and cannot replace a link. "
                    f"Remove the link, or link or bind-mount {artifacts} instead. {ADVICE}"
                )


def check_data(data: Path) -> None:
    """Check that the media folders of `data` are inside it.

    Raises:
        ClipBertError: `data/videos` or another folder directly in `data` is a link to a place outside it.
    """
    root = data.resolve()
    for folder in sorted(data.iterdir()) if data.is_dir() else ():
        if folder.is_symlink() and folder.is_dir() and not folder.resolve().is_relative_to(root):
            raise ClipBertError(
                f"{folder}: is a symbolic link to a place outside {data} ({folder.resolve()}). It is not followed, and "
                "DVC would not version its target. Move the folder into data/, or bind-mount it there. "
                f"{ADVICE}"
            )


def writable_data(data: Path) -> Path:
    """Return the folder that an import replaces: `data`, or its target if it is a link.

    Raises:
        ClipBertError: the link points to a mount point, which cannot be replaced.
    """
    if not data.is_symlink():
        return data
    target = data.resolve()
    if os.path.ismount(target):
        raise ClipBertError(
            f"{data}: is a link to {target}, the mount point of a disk, which cannot be replaced. Link a folder on "
            f"that disk instead, such as {target / 'data'}. {ADVICE}"
        )
    return target


def dvc_caches(root: Path) -> list[Path]:
    """Return the folders of DVC's cache, to which it may link files of `data/`."""
    found = [root / ".dvc" / "cache"]
    for name in ("config", "config.local"):
        config = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            config.read(root / ".dvc" / name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        if folder := config.get("cache", "dir", fallback=None):
            found.append(root / ".dvc" / folder)  # a relative path is relative to the configuration file
    return [folder.resolve() for folder in found]
