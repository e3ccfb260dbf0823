"""Routes of the library: search, and thumbnails and media of indexed videos."""

import math
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import FileResponse

from clipbert.server.errors import ApiError, documented
from clipbert.server.routes import Answers, Fields, Text
from clipbert.server.schemas import SearchAnswer, SearchHit

MOST_HITS, MOST_RERANKED, MOST_FILTERS = 100, 500, 20
ERRORS = documented(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)
KEPT = {"Cache-Control": "private, max-age=3600"}

router = APIRouter(prefix="/v1", tags=["library"])
Where = Annotated[
    list[Annotated[str, Form(max_length=200, pattern="^[^=]+=")]],
    Form(max_length=MOST_FILTERS, description="KEY=VALUE: only videos with this metadata. Repeatable."),
]


@router.post("/search", responses=ERRORS)
async def search(
    answers: Answers,
    fields: Fields,
    text: Annotated[
        Text | None, Form(description="What to find. Or give an example: `video`, `path` or `video_id`.")
    ] = None,
    k: Annotated[int, Form(ge=1, le=MOST_HITS, description="Hits to return.")] = 10,
    rerank: Annotated[int, Form(ge=0, le=MOST_RERANKED, description="Videos that the cross-encoder ranks.")] = 30,
    where: Where = [],  # noqa: B006  FastAPI copies it
) -> SearchAnswer:
    """Find the moments of the indexed videos that match a text, or that look like an example."""
    example = fields if fields.given else None
    if (text is None) == (example is None):
        raise ApiError(422, "invalid", "text: expected a text, or an example as `video`, `path` or `video_id`.")
    filters: dict[str, list[str]] = {}
    for each in where:
        key, _, value = each.partition("=")
        filters.setdefault(key, []).append(value)
    query: dict[str, Any] = {"k": k, "rerank": rerank, "where": filters}
    hits, videos, name = await answers.search(example, query | ({} if text is None else {"text": text}))
    found = [
        SearchHit(
            hit.video_id,
            hit.start_s,
            hit.end_s,
            hit.score,
            hit.reranked,
            {key: _plain(value) for key, value in hit.metadata.items()},
            f"/v1/media/{quote(hit.video_id)}",
            f"/v1/thumbnails/{quote(hit.video_id)}?at={(hit.start_s + hit.end_s) / 2:.2f}",
        )
        for hit in hits
    ]
    return SearchAnswer(found, videos, name)


def _plain(value: Any) -> str | float | int | bool | None:
    """Return a value of a table as one of JSON."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | float | int | bool) else str(value)


@router.get("/media/{video_id:path}", response_class=FileResponse, responses=documented(401, 403, 404, 422))
async def media(answers: Answers, video_id: str) -> Response:
    """Return the file of an indexed video; ranges are served, so that players can seek."""
    path = await answers.library_call(answers.library.file, video_id)
    return FileResponse(path, headers=KEPT | {"Content-Disposition": "inline"})


@router.get(
    "/thumbnails/{video_id:path}",
    response_class=Response,
    responses=documented(401, 403, 404, 422, 429, 503) | {200: {"content": {"image/jpeg": {}}}},
)
async def thumbnail(
    answers: Answers, video_id: str, at: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0
) -> Response:
    """Return the frame of an indexed video at a time in seconds, as JPEG."""
    found = await answers.thumbnail(video_id, at)
    return Response(found, media_type="image/jpeg", headers=KEPT)
