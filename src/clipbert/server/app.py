"""The application: routes, error answers, OpenAPI, and the start and end of its work."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from clipbert import __version__
from clipbert.sampling.decoder_pool import start_decoder
from clipbert.sampling.video_input import DEFAULT_WORKER_MB
from clipbert.server.access import COOKIE, AccessGuard, equal, session_of
from clipbert.server.answering import Answering
from clipbert.server.bodies import BodyLimits
from clipbert.server.errors import RETRY_AFTER_S, ApiError, documented
from clipbert.server.metrics import Metrics
from clipbert.server.models import Models
from clipbert.server.observe import Observe
from clipbert.server.routes import about, router
from clipbert.server.schemas import Health
from clipbert.server.search_routes import router as search_router
from clipbert.server.settings import ServerSettings

logger = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page")
DESCRIPTION = (
    "Answers questions about videos, describes them and searches a library, with the models of a ClipBERT project. "
    " Requests are forms: upload a file as `video`, or name one below a root of the server as `path`."
)


def create_app(
    settings: ServerSettings, models: Models, metrics: Metrics, on_failure: Callable[[BaseException], None]
) -> FastAPI:
    """Return the application.

    Args:
        on_failure: gets the error if the models cannot be loaded.
    """
    answering = Answering(settings, models, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        start_decoder(DEFAULT_WORKER_MB)
        work = asyncio.create_task(_load_and_follow(models, settings, on_failure))
        yield
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        answering.close()
        await models.close()

    app = FastAPI(
        title="ClipBERT", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.answering = answering
    app.state.settings = settings
    app.include_router(router)
    app.include_router(search_router)
    app.include_router(about)
    _add_operations(app, settings, models, metrics)
    _add_pages(app)
    _add_errors(app, metrics)
    app.openapi = lambda: describe(app, settings)  # type: ignore[method-assign]
    # the last one added sees a request first
    app.add_middleware(BodyLimits, limits=settings.limits, metrics=metrics)
    app.add_middleware(AccessGuard, settings=settings)
    app.add_middleware(Observe, metrics=metrics)
    return app


async def _load_and_follow(
    models: Models, settings: ServerSettings, on_failure: Callable[[BaseException], None]
) -> None:
    try:
        models.start(await asyncio.to_thread(models.load_all))
    except Exception as error:
        on_failure(error)
        return
    logger.info("ready", extra={"models": models.names()})
    await models.follow(settings.poll_s)


def _add_operations(app: FastAPI, settings: ServerSettings, models: Models, metrics: Metrics) -> None:
    """Add health, readiness, metrics and the session of the page."""

    @app.get("/health", tags=["server"], responses=documented(403))
    async def health() -> Health:
        """Return that the process answers."""
        return Health("ok")

    @app.get("/ready", tags=["server"], responses=documented(403, 503))
    async def ready() -> Health:
        """Return that the models are loaded."""
        if not models.ready:
            raise ApiError(503, "starting", "The server is loading its models. Try again.", RETRY_AFTER_S)
        return Health("ready")

    @app.get(
        "/metrics",
        tags=["server"],
        response_class=PlainTextResponse,
        responses=documented(401, 403) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def prometheus() -> Response:
        """Return metrics in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/session", tags=["server"], status_code=204, responses=documented(400, 401, 403, 408, 413, 415, 422))
    async def session(request: Request, key: Annotated[str, Form(min_length=1, max_length=1000)]) -> Response:
        """Exchange the API key for a cookie, for browsers."""
        if not equal(key, settings.api_key):
            raise ApiError(401, "wrong_key", "The API key is wrong, or this server has none.")
        answer = Response(status_code=204)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, session_of(key), path="/", httponly=True, samesite="strict", secure=secure)
        return answer


def _add_pages(app: FastAPI) -> None:
    """Add the page of `clipbert app` and the description of the API, with all files from this machine."""
    vendored = Path(str(files("fastapi_offline"))) / "static"

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        if not (PAGE / "index.html").is_file():
            return RedirectResponse("/docs")
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static/swagger", StaticFiles(directory=vendored), name="swagger")
    app.mount("/static", StaticFiles(directory=PAGE), name="static")


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    """Give all errors one form."""

    @app.exception_handler(HTTPException)
    async def on_error(request: Request, error: HTTPException) -> JSONResponse:
        if not isinstance(error, ApiError):
            given = error
            code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "bad_request")
            error = ApiError(error.status_code, code, f"{error.detail}.")
            error.headers = given.headers
        metrics.refused.labels(error.code).inc()
        request.scope.setdefault("state", {})["log"] = {"error": error.message}
        # what is left of a body is not read
        answer = error.response(close=error.status_code in (408, 413, 429) and request.method == "POST")
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return await on_error(request, ApiError(422, "invalid", "; ".join(map(_in_words, error.errors()))))


def _in_words(fault: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"] if part != "body")
    found = fault["msg"].replace("String should match pattern '\\S'", "expected a text that is not empty")
    return f"{place}: {found[:1].lower()}{found[1:]}"


def describe(app: FastAPI, settings: ServerSettings) -> dict[str, Any]:
    """Return the OpenAPI description: FastAPI's, with files and alternatives as clients need them."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = found["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for name, schema in schemas.items():
            if name.startswith("Body_"):
                _describe_form(schema)
        # FastAPI describes the errors of a route in its own type, here text
        for answer in found["paths"]["/metrics"]["get"]["responses"].values():
            if "text/plain" in answer["content"] and "$ref" in answer["content"]["text/plain"]["schema"]:
                answer["content"]["application/json"] = answer["content"].pop("text/plain")
        if settings.api_key:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in found["paths"].items():
                if path.startswith(("/v1/", "/metrics")) and path != "/v1/session":
                    for operation in operations.values():
                        operation["security"] = [{"key": []}]
        app.openapi_schema = found
    return app.openapi_schema


def _describe_form(schema: dict[str, Any]) -> None:
    """Describe a form: a field may be missing but not null, and it has either a file or a path."""
    properties = schema["properties"]
    for name, value in properties.items():
        if "anyOf" in value:
            (only,) = [each for each in value.pop("anyOf") if each.get("type") != "null"]
            properties[name] = only | value
        if name == "video":
            properties[name].pop("contentMediaType", None)
            properties[name]["format"] = "binary"
    if {"video", "path"} <= properties.keys():
        alternatives = ["video", "path", "video_id", *(["text"] if "text" in properties else [])]
        schema["oneOf"] = [{"required": [name]} for name in alternatives]
