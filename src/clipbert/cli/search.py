"""Commands that index a library of videos and search it."""

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipbert.cli.model_choice import ChosenModel, choose_model
from clipbert.cli.options import project
from clipbert.cli.use import PANEL, AsJson, Model
from clipbert.console import console
from clipbert.errors import ClipBertError

if TYPE_CHECKING:
    from clipbert.search.build import BuildResult
    from clipbert.search.sources import VideoSource

index_group = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
searching = typer.Typer(rich_markup_mode="markdown")
TASKS = ("retrieval",)
SHOWN_FAILURES = 5

Index = Annotated[
    Path | None, typer.Option("--index", metavar="DIR", help="The folder of the index. Default: artifacts/search.")
]
Metadata = Annotated[
    Path | None,
    typer.Option("--metadata", metavar="FILE.csv", help="A table with a column `video` and others to filter by."),
]
Executor = Annotated[
    str, typer.Option("--executor", metavar="local|dask://HOST:PORT", help="Where the vectors are made.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Decoder processes. Default: one per core.")]


@index_group.callback()
def index() -> None:
    """Make and change the index that `clipbert search` reads."""


@index_group.command(epilog="Example: `clipbert index build videos/`")
def build(
    videos: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="A folder of videos and images. Default: the project's manifest."),
    ] = None,
    out: Index = None,
    model: Model = None,
    metadata: Metadata = None,
    clip_seconds: Annotated[
        float, typer.Option("--clip-seconds", min=0.1, help="Longest clip; a longer video has several.")
    ] = 10.0,
    tokens: Annotated[
        bool,
        typer.Option("--tokens/--no-tokens", help="Store visual tokens; without them a search decodes its candidates."),
    ] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make it again with another model or other settings.")
    ] = False,
    executor: Executor = "local",
    workers: Workers = None,
) -> None:
    """Index videos, or update the index to them; a killed build continues where it was."""
    folder = _folder(out)
    with ExitStack() as opened:
        chosen = choose_model(project(), model, TASKS, opened)
        from clipbert.search.build import build_index

        pipeline, sources = _pipeline(chosen), _sources([videos] if videos else [], metadata)
        result = build_index(
            folder,
            pipeline,
            sources,
            clip_s=clip_seconds,
            tokens=tokens,
            frame_cache=None if videos else _frame_cache(),
            executor=_executor(executor, pipeline, folder, opened, clip_seconds, tokens),
            workers=workers,
            model_name=chosen.name,
            replace_index=replace,
        )
    _report(folder, result)


@index_group.command(epilog="Example: `clipbert index add more/ new.mp4`")
def add(
    videos: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders of files.")],
    out: Index = None,
    model: Model = None,
    metadata: Metadata = None,
    executor: Executor = "local",
    workers: Workers = None,
) -> None:
    """Add videos to the index, or replace those of the same name; other videos stay."""
    folder = _folder(out)
    with ExitStack() as opened:
        from clipbert.search.index_file import read_state

        held = read_state(folder).settings
        chosen = choose_model(project(), model, TASKS, opened)
        from clipbert.search.build import add_videos

        pipeline, sources = _pipeline(chosen), _sources(videos, metadata)
        result = add_videos(
            folder,
            pipeline,
            sources,
            executor=_executor(executor, pipeline, folder, opened, held.clip_s, held.tokens),
            workers=workers,
            model_name=chosen.name,
        )
    _report(folder, result)


@index_group.command(epilog="Example: `clipbert index remove old.mp4 drafts`")
def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names of videos in the index, or folders of names.")
    ],
    out: Index = None,
) -> None:
    """Remove videos from the index; their files stay."""
    from clipbert.search.build import remove_videos

    folder = _folder(out)
    count = remove_videos(folder, names)
    console.print(f"index: {count} videos removed from {folder}")


@index_group.command(epilog="Example: `clipbert index merge machine1/search machine2/search`")
def merge(
    others: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Indexes of the same model.")],
    out: Index = None,
) -> None:
    """Add the videos of other indexes, which may have been made on other machines."""
    from clipbert.search.build import merge_indexes

    folder = _folder(out)
    count = merge_indexes(folder, others)
    console.print(f"index: {count} videos merged into {folder}")


@index_group.command(epilog="Example: `clipbert index info --videos`")
def info(
    out: Index = None,
    videos: Annotated[bool, typer.Option("--videos", help="List the videos too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the index contains, after checking its files."""
    from clipbert.search.index import SearchIndex

    folder = _folder(out)
    opened = SearchIndex.open(folder)
    for segment in opened.segments:
        segment.check_tokens()
    found = opened.info()
    failures = [asdict(each) for each in opened.state.failures]
    if as_json:
        listed = {"video_ids": opened.video_ids()} if videos else {}
        typer.echo(json.dumps({"index": str(folder), **asdict(found), "failures": failures, **listed}, indent=2))
        return
    rows = {
        "videos": f"{found.videos} ({found.clips} clips of at most {found.clip_s:g} s)",
        "model": f"{found.model_name} ({found.model[:12]})",
        "vectors": f"{found.dimension} values, {found.backend}",
        "visual tokens": "stored" if found.tokens else "not stored",
        "size": f"{found.bytes / 1e6:.1f} MB in {found.segments} segments, {found.deleted} videos deleted",
        "metadata": ", ".join(found.keys) or "none",
        "failed": f"{found.failed} files",
    }
    for name, value in rows.items():
        console.print(f"{name:<14} {value}")
    for each in failures:
        console.print(f"  {each['video_id']}: {each['reason']}")
    for name in opened.video_ids() if videos else []:
        console.print(name)


@searching.command(
    epilog='Example: `clipbert search "a red circle moves left" -k 5 --where split=test`', rich_help_panel=PANEL
)
def search(
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What to find, in quotes.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Show this many hits.")] = 10,
    video: Annotated[Path | None, typer.Option("--video", metavar="FILE", help="Find what looks like a video.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Find what looks like a picture.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="KEY=VALUE", help="Only videos with this metadata. Repeatable."),
    ] = None,
    rerank: Annotated[
        int, typer.Option("--rerank", min=0, help="Let the cross-encoder rank this many videos; 0: none.")
    ] = 30,
    out: Index = None,
    model: Model = None,
    as_json: AsJson = False,
    clip: Annotated[int | None, typer.Option("--clip", min=1, help="Write the moment of this hit as a file.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE.mp4", help="The file of --clip. Default: moment.mp4.")
    ] = None,
    play: Annotated[bool, typer.Option("--play", help="Open the moment with the player of the desktop.")] = False,
) -> None:
    """Find the moments of the indexed videos that match a text, or that look like a video or a picture."""
    if sum(value is not None for value in (text, video, image)) != 1:
        raise ClipBertError("nothing to search for, or too much: expected a text, or --video FILE, or --image FILE.")
    filters = _filters(where or [])
    folder = _folder(out)
    with ExitStack() as opened:
        from clipbert.search.index_file import read_state

        read_state(folder)
        chosen = choose_model(project(), model, TASKS, opened)
        from clipbert.search.index import SearchIndex

        library, pipeline = SearchIndex.open(folder), _pipeline(chosen)
        hits = library.search(pipeline, text=text, video=video, image=image, k=k, where=filters, rerank=rerank)
        written = _write_clip(hits, clip, output, play, pipeline) if clip or output or play else None
    if as_json:
        about: dict[str, Any] = {"text": text} if text else {"video": str(video)} if video else {"image": str(image)}
        about |= {"hits": [hit.as_json() for hit in hits], "index": str(folder), "model": chosen.name}
        typer.echo(json.dumps(about | ({"clip": str(written)} if written else {}), indent=2, ensure_ascii=False))
        return
    if not hits:
        console.print("no hits: no video has this metadata" if filters else "no hits")
    width = max((len(hit.video_id) for hit in hits), default=0)
    for number, hit in enumerate(hits, start=1):
        span = f"{hit.start_s:.1f} to {hit.end_s:.1f} s" if hit.end_s else "image"
        console.print(f"{number:>3}  {hit.score:>6.2f}  {hit.video_id:<{width}}  {span}")
    console.print(f"index: {folder}, {len(library)} videos")
    console.print(f"model: {chosen.name}")
    if written:
        console.print(f"clip: {written}")


def _write_clip(hits: Any, clip: int | None, output: Path | None, play: bool, pipeline: Any) -> Path:
    """Write the moment of a hit, play it where that is wanted, and return the file."""
    from clipbert.search.moment import play as open_file
    from clipbert.search.moment import write_moment

    number = clip or 1
    if number > len(hits):
        raise ClipBertError(f"--clip {number}: there are {len(hits)} hits: expected one of them.")
    hit = hits[number - 1]
    file = output or Path("moment.mp4" if hit.end_s else f"moment{hit.path.suffix.lower()}")
    write_moment(hit.path, hit.start_s, hit.end_s, file, pipeline.frames.timeout_s, pipeline.frames.max_worker_mb)
    if play:
        open_file(file)
    return file


def _folder(given: Path | None) -> Path:
    """Return the folder of the index as messages show it."""
    return given or project().search.relative_to(project().root)


def _filters(given: list[str]) -> dict[str, list[str]]:
    """Return the accepted values of each metadata column.

    Raises:
        ClipBertError: not KEY=VALUE.
    """
    found: dict[str, list[str]] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise ClipBertError(f"--where {each}: expected KEY=VALUE, such as split=test.")
        found.setdefault(key, []).append(value)
    return found


def _pipeline(chosen: ChosenModel) -> Any:
    from clipbert.inference.pipelines import pipeline

    return pipeline("retrieval", chosen.folder)


def _sources(paths: list[Path], metadata: Path | None) -> "list[VideoSource]":
    from clipbert.search.sources import from_manifest, from_paths, with_metadata

    root = project()
    sources = from_paths(paths) if paths else from_manifest(root.manifest, root.data)
    return sources if metadata is None else with_metadata(sources, metadata)


def _frame_cache() -> Any:
    """Return the project's frame cache; None if there is none that can be used."""
    from clipbert.frame_cache import FrameCache

    try:
        return FrameCache(project().frames)
    except ClipBertError:
        return None


def _executor(name: str, pipeline: Any, folder: Path, opened: ExitStack, clip_s: float, tokens: bool) -> Any:
    """Return the executor that an option names; None for this machine.

    Raises:
        ClipBertError: not an executor, or its scheduler does not answer.
    """
    if name == "local":
        return None
    if not name.startswith("dask://"):
        raise ClipBertError(f"--executor {name}: expected local or dask://HOST:PORT.")
    from clipbert.frame_cache.cluster import open_cluster
    from clipbert.search.encode import settings_of
    from clipbert.search.executors import ClusterExecutor

    params = pipeline.frames.model_copy(update={"executor": name})
    dask = opened.enter_context(open_cluster(params, command="clipbert index build"))
    return ClusterExecutor(dask, pipeline, settings_of(pipeline, clip_s, tokens))


def _report(folder: Path, result: "BuildResult") -> None:
    """Print what a build did."""
    console.print(
        f"index: {result.added} videos added, {result.kept} kept, {result.removed} removed in {folder}"
        + (f"; {len(result.failures)} files cannot be indexed:" if result.failures else "")
    )
    for each in result.failures[:SHOWN_FAILURES]:
        console.print(f"  {each.video_id}: {each.reason}")
    if len(result.failures) > SHOWN_FAILURES:
        console.print(f"  and {len(result.failures) - SHOWN_FAILURES} more: clipbert index info")
