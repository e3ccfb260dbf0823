"""Commands that serve models over HTTP: serve and app."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipbert.cli.model_choice import CONFIG, REGISTERED, ChosenModel, choose_model, release_name
from clipbert.cli.options import project
from clipbert.cli.use import ASK, CAPTION, CHOOSE, MATCH, PANEL
from clipbert.config.tasks import check_task
from clipbert.console import console
from clipbert.errors import ClipBertError

if TYPE_CHECKING:
    from clipbert.release.alias_versions import AliasVersions
    from clipbert.server.models import ModelSource
    from clipbert.server.settings import ServerSettings

serving = typer.Typer(rich_markup_mode="markdown")
ROUTES: dict[str, tuple[str, ...]] = {"ask": ASK, "choose": CHOOSE, "caption": CAPTION, "match": MATCH}

Host = Annotated[str, typer.Option("--host", help="Listen on this address. Others than this machine's need a key.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Listen on this port; 0: a free one.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="TASK=MODEL",
        help="Serve this model for its task: a folder, a registered version (models:/NAME@champion) or a hub id. "
        "Repeatable. Default: the champion of each task, else the last trained model.",
    ),
]
Roots = Annotated[
    list[Path] | None,
    typer.Option("--root", help="Requests may name files below this folder. Repeatable. Default: data/, if it exists."),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--allowed-host", metavar="NAME", help="Also answer to this name, as that of a proxy. Repeatable."),
]
UploadMb = Annotated[float, typer.Option("--max-upload-mb", min=0.001, help="Refuse larger files.")]
UploadTime = Annotated[float, typer.Option("--upload-timeout", min=0.1, help="Seconds in which a body must arrive.")]
HeaderTime = Annotated[float, typer.Option("--header-timeout", min=0.1, help="Seconds in which a head must arrive.")]
Duration = Annotated[float, typer.Option("--max-duration", min=0.1, help="Refuse longer videos, in seconds.")]
Megapixels = Annotated[float, typer.Option("--max-megapixels", min=0.001, help="Refuse larger videos and pictures.")]
Concurrent = Annotated[int, typer.Option("--max-concurrent", min=1, max=1024, help="Requests at one time.")]
RequestTime = Annotated[float, typer.Option("--request-timeout", min=0.1, help="Seconds from upload to answer.")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, max=256, help="Requests in one forward pass.")]
BatchWait = Annotated[float, typer.Option("--batch-wait-ms", min=0, max=1000, help="Wait so long for a full batch.")]
Decoders = Annotated[
    int | None,
    typer.Option("--decoders", min=1, max=64, help="Processes that decode. Default: one a core, at most 4."),
]
Poll = Annotated[float, typer.Option("--poll", min=0.1, help="Seconds between two looks at the champion.")]
Drain = Annotated[float, typer.Option("--drain", min=0, help="Seconds for running requests when the server stops.")]


@serving.command(
    epilog="Example: `clipbert serve --model open_qa=models:/clipbert-open_qa@champion --port 8765`",
    rich_help_panel=PANEL,
)
def serve(
    model: Given = None,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    root: Roots = None,
    allowed_host: Hosts = None,
    max_upload_mb: UploadMb = 200.0,
    upload_timeout: UploadTime = 60.0,
    header_timeout: HeaderTime = 10.0,
    max_duration: Duration = 600.0,
    max_megapixels: Megapixels = 16.0,
    max_concurrent: Concurrent = 64,
    request_timeout: RequestTime = 30.0,
    batch_size: Batch = 16,
    batch_wait_ms: BatchWait = 5.0,
    decoders: Decoders = None,
    poll: Poll = 10.0,
    drain: Drain = 30.0,
) -> None:
    """Answer requests about videos over HTTP, and follow the champions.

    The environment variable CLIPBERT_API_KEY sets a key that requests must have.
    """
    from clipbert.server.settings import API_KEY, Limits, ServerSettings

    limits = Limits(
        upload_mb=max_upload_mb,
        upload_s=upload_timeout,
        header_s=header_timeout,
        duration_s=max_duration,
        megapixels=max_megapixels,
        concurrent=max_concurrent,
        request_s=request_timeout,
        batch=batch_size,
        batch_wait_ms=batch_wait_ms,
    )
    settings = ServerSettings(
        host,
        port,
        _roots(root),
        tuple(allowed_host or ()),
        os.environ.get(API_KEY, ""),
        limits,
        poll,
        drain,
        decoders,
        _index(),
    )
    _run(settings, model or [])


@serving.command(epilog="Example: `clipbert app`", rich_help_panel=PANEL)
def app(
    model: Given = None,
    port: Port = 8765,
    root: Roots = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Open a page on which you ask about videos and search the library.

    It is the page of `clipbert serve`, which has more options.
    """
    from clipbert.server.settings import API_KEY, ServerSettings

    key = os.environ.get(API_KEY, "")
    _run(ServerSettings(port=port, roots=_roots(root), api_key=key, index=_index()), model or [], browser)


def _index() -> Path:
    return project().artifacts / "search"


def _run(settings: "ServerSettings", given: Sequence[str], browser: bool = False) -> None:
    from clipbert.release.alias_versions import AliasVersions

    here = project()
    reader = AliasVersions(here.root, release_name(here))
    sources = _sources(given, reader)

    def choose(name: str | None, tasks: Sequence[str], scratch: ExitStack) -> ChosenModel:
        return choose_model(here, name, tasks, scratch)

    def announce(address: str) -> None:
        console.print(f"Serving {', '.join(sources)} at {address} (API: {address}/docs). Ctrl-C stops.")
        if browser:
            import webbrowser

            webbrowser.open(address)

    from clipbert.server.process import serve as run_server

    run_server(settings, sources, choose, reader.version, announce)


def _roots(given: Sequence[Path] | None) -> tuple[Path, ...]:
    """Return the folders that requests may name, without links.

    Raises:
        ClipBertError: one is not a folder.
    """
    if given is None:
        data = project().data
        return (data.resolve(),) if data.is_dir() else ()
    for folder in given:
        if not folder.is_dir():
            raise ClipBertError(f"--root {folder}: not a folder: expected one with videos. Check the path.")
    return tuple(folder.resolve() for folder in given)


def _sources(given: Sequence[str], reader: "AliasVersions") -> "dict[str, ModelSource]":
    """Return where the model of each route comes from; routes without a model are left out.

    Raises:
        ClipBertError: a wrong --model, or no model at all.
    """
    from clipbert.server.models import ModelSource

    named: dict[str, tuple[str, str]] = {}
    for text in given:
        task, equals, model = text.partition("=")
        if not equals or not model:
            raise ClipBertError(f"--model {text}: expected TASK=MODEL, such as open_qa=artifacts/models/open_qa.")
        route = next((route for route, tasks in ROUTES.items() if check_task(task) in tasks), None)
        if route is None:
            raise ClipBertError(f"--model {text}: the server has no route for {task}.")
        if route in named:
            raise ClipBertError(f"--model {text}: {route} has a model already, {named[route][1]}. Give one of them.")
        named[route] = (task, model)
    here, prefix = project(), release_name(project())
    found: dict[str, ModelSource] = {}
    for route, tasks in ROUTES.items():
        if route in named:
            task, model = named[route]
            alias = REGISTERED.fullmatch(model)
            follow = ((alias["name"], alias["alias"]),) if alias is not None and alias["alias"] else ()
            found[route] = ModelSource((task,), model, follow)
            continue
        champions = tuple((f"{prefix}-{task}", "champion") for task in tasks)
        trained = any((here.model(task) / CONFIG).is_file() for task in tasks)
        if trained or any(reader.version(*champion) is not None for champion in champions):
            found[route] = ModelSource(tasks, None, champions)
    if not found:
        raise ClipBertError(
            f"no model: no version is the champion in this project, and {here.root} has none below artifacts/models. "
            "Train one (`make run` for the sample set), or name one with --model TASK=MODEL."
        )
    return found
