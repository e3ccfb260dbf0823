"""Registry of importers: `clipbert import NAME`, its help and a table of the documentation are generated from it.

A file in `datasets/` registers its function with `importer`. Another package does the same in a module that its entry
point in the group `clipbert.importers` names, or calls `importer` before the command line runs.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeVar

from clipbert.console import errors
from clipbert.data.annotations import SPLITS
from clipbert.data.importers import datasets
from clipbert.data.importers.summary import ImportSummary, Protocol

ENTRY_POINTS = "clipbert.importers"
Run = TypeVar("Run", bound=Callable[..., ImportSummary])


@dataclass(frozen=True)
class Option:
    """How the command line shows one parameter of an importer; the type and the default are the function's.

    Attributes:
        help: the help text.
        flag: the option's name where it differs from the parameter's.
        metavar: placeholder of the value in the help.
        parse: turns the list of strings of a repeatable option into the parameter's value.
    """

    help: str
    flag: str | None = None
    metavar: str | None = None
    parse: Callable[[Sequence[str]], Any] | None = None


@dataclass(frozen=True)
class Importer:
    """Description of a data set and the function that imports it.

    Attributes:
        run: `run(annotations: Path, source: Source, **options) -> ImportSummary`.
        name: the name of the command.
        title: the name of the data set.
        paper: authors, venue and year; None for a format that is not a published data set.
        about: what the importer makes, one sentence: the help of the command.
        tasks: names of the tasks that the result trains or tests.
        annotations: the annotation files that are expected.
        example: the arguments of an example command.
        media: what the second argument of the command holds: videos, gifs, images or media.
        published: published counts, or several of them by the name of the variant.
        options: help of the function's further parameters.
        hold_out: whether `--hold-out` applies; False for a data set without training split.
    """

    run: Callable[..., ImportSummary]
    name: str
    title: str
    about: str
    tasks: tuple[str, ...]
    annotations: str
    example: str
    paper: str | None = None
    media: str = "videos"
    published: Protocol | Mapping[str, Protocol] | None = None
    options: Mapping[str, str | Option] = field(default_factory=dict)
    hold_out: bool = True

    def parameters(self) -> Iterator[tuple[inspect.Parameter, Option]]:
        """Yield the parameters after `annotations` and `source`, with their annotations evaluated."""
        for parameter in list(inspect.signature(self.run, eval_str=True).parameters.values())[2:]:
            option = self.options[parameter.name]
            yield parameter, Option(option) if isinstance(option, str) else option


_importers: dict[str, Importer] = {}
_discovered = False


def importer(name: str, **about: Any) -> Callable[[Run], Run]:
    """Return a decorator that registers an importer function and returns it unchanged.

    Args:
        about: the other fields of `Importer`.

    Raises:
        ValueError: the name is taken, or a parameter of the function has no help in `options`.
    """

    def register(run: Run) -> Run:
        made = Importer(run, name, **about)
        taken = _importers.get(name)
        if taken is not None and (taken.run.__module__, taken.run.__name__) != (run.__module__, run.__name__):
            raise ValueError(f"importer {name}: {taken.run.__module__} already registers this name. Choose another.")
        extra = set(list(inspect.signature(run).parameters)[2:])
        if extra != set(made.options):
            raise ValueError(f"importer {name}: options describes {sorted(made.options)}, expected {sorted(extra)}.")
        _importers[name] = made
        return run

    return register


def unregister(name: str) -> None:
    """Remove an importer from the registry."""
    del _importers[name]


def importers() -> dict[str, Importer]:
    """Return every importer by name, of `datasets/` and of other packages, sorted.

    A package whose entry point fails is reported on stderr and left out.
    """
    global _discovered
    if not _discovered:
        _discovered = True
        for module in pkgutil.iter_modules(datasets.__path__, f"{datasets.__name__}."):
            importlib.import_module(module.name)
        for entry in entry_points(group=ENTRY_POINTS):
            try:
                entry.load()
            except Exception as error:
                errors.print(
                    f"{entry.value}: this importer of another package cannot be loaded "
                    f"({type(error).__name__}: {error}). Update or uninstall the package."
                )
    return dict(sorted(_importers.items()))


def markdown_table() -> str:
    """Return the table of the data sets for the documentation."""
    lines = [
        "| `clipbert import` | data set | tasks | annotation files | published: media (texts) |",
        "|---|---|---|---|---|",
    ]
    for name, made in importers().items():
        title = f"{made.title} ({made.paper})" if made.paper else made.title
        tasks = ", ".join(made.tasks)
        lines.append(f"| `{name}` | {title} | {tasks} | {made.annotations} | {_published(made.published)} |")
    return "\n".join(lines) + "\n"


def _published(published: Protocol | Mapping[str, Protocol] | None) -> str:
    """Return the published counts in words, one line for each variant."""
    if isinstance(published, Protocol):
        return ", ".join(_counts(published)) or "-"
    variants = (published or {}).items()
    return "<br>".join(f"`{name}`: {', '.join(_counts(protocol))}" for name, protocol in variants) or "-"


def _counts(protocol: Protocol) -> Iterator[str]:
    for split in SPLITS:
        media, texts = protocol.media.get(split), protocol.texts.get(split)
        if media is not None or texts is not None:
            count = "" if media is None else f" {media:,}"
            yield f"{split}{count}" + ("" if texts is None else f" ({texts:,})")
    if protocol.answers is not None:
        yield f"{protocol.answers:,} answers"
