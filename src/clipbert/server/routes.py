"""Routes about one video: ask, choose, caption and match."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile

from clipbert import __version__
from clipbert.server.answering import Answering, VideoFields
from clipbert.server.errors import ApiError, documented
from clipbert.server.schemas import (
    Answer,
    AskAnswer,
    CaptionAnswer,
    ChooseAnswer,
    LimitsInfo,
    MatchAnswer,
    MatchedText,
    Option,
    ServerInfo,
)

MOST_OPTIONS, MOST_TEXTS, MOST_TOP, MOST_CHARS = 16, 64, 100, 1000
ERRORS = documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
NOT_EMPTY = r"\S"

router = APIRouter(prefix="/v1", tags=["one video"])
about = APIRouter(prefix="/v1", tags=["server"])


def video_fields(
    video: Annotated[UploadFile | None, File(description="A video or picture. Give it, or `path`.")] = None,
    path: Annotated[
        str | None, Form(min_length=1, max_length=4096, description="A file below a root of the server.")
    ] = None,
    video_id: Annotated[
        str | None, Form(min_length=1, max_length=4096, description="A video of the search index.")
    ] = None,
    start_s: Annotated[float | None, Form(ge=0, allow_inf_nan=False, description="Use the video from here.")] = None,
    end_s: Annotated[float | None, Form(gt=0, allow_inf_nan=False, description="Use the video up to here.")] = None,
    explain: Annotated[bool, Form(description="Return the frames that were used, and why.")] = False,
) -> VideoFields:
    """Return the fields that all routes about a video share.

    Raises:
        ApiError: the segment does not end after its start.
    """
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise ApiError(422, "invalid", f"end_s is {end_s:g} and start_s is {start_s:g}: expected a later end.")
    return VideoFields(video, path, video_id, start_s, end_s, explain)


def answering(request: Request) -> Answering:
    """Return the one that the application has."""
    found: Answering = request.app.state.answering
    return found


Fields = Annotated[VideoFields, Depends(video_fields)]
Answers = Annotated[Answering, Depends(answering)]
Text = Annotated[str, Form(min_length=1, max_length=MOST_CHARS, pattern=NOT_EMPTY)]


@router.post("/ask", responses=ERRORS)
async def ask(
    answers: Answers,
    fields: Fields,
    question: Text,
    top: Annotated[int, Form(ge=1, le=MOST_TOP, description="Answers to return.")] = 5,
) -> AskAnswer:
    """Answer a question about a video."""
    rows, rest, pipeline = await answers.answer(
        "ask",
        fields,
        {"question": question, "top": top},
        [question],
        lambda rows: (question, rows[0]["answer"]),
    )
    found = [Answer(row["answer"], row["score"], row.get("confidence")) for row in rows]
    return AskAnswer(**vars(rest), question=question, answers=found, calibrated=pipeline.calibration is not None)


@router.post("/choose", responses=ERRORS)
async def choose(
    answers: Answers,
    fields: Fields,
    question: Text,
    options: Annotated[list[Text], Form(min_length=2, max_length=MOST_OPTIONS, description="Give it for each option.")],
) -> ChooseAnswer:
    """Choose the best of several answers to a question about a video."""
    rows, rest, pipeline = await answers.answer(
        "choose",
        fields,
        {"question": question, "options": options},
        [question, *options],
        lambda rows: (question, rows[0]["answer"]),
    )
    found = [Option(row["option"], row["answer"], row["score"], row.get("confidence")) for row in rows]
    return ChooseAnswer(**vars(rest), question=question, answers=found, calibrated=pipeline.calibration is not None)


@router.post("/caption", responses=ERRORS)
async def caption(answers: Answers, fields: Fields) -> CaptionAnswer:
    """Describe a video in a sentence."""
    rows, rest, _ = await answers.answer("caption", fields, {}, [], lambda rows: ("", rows[0]["caption"]))
    return CaptionAnswer(**vars(rest), caption=rows[0]["caption"], score=rows[0]["score"])


@router.post("/match", responses=ERRORS)
async def match(
    answers: Answers,
    fields: Fields,
    texts: Annotated[list[Text], Form(min_length=1, max_length=MOST_TEXTS, description="Give it for each text.")],
) -> MatchAnswer:
    """Score how well texts describe a video, best first."""
    rows, rest, pipeline = await answers.answer(
        "match", fields, {"texts": texts}, texts, lambda rows: (rows[0]["text"], rows[0]["text"])
    )
    found = [MatchedText(row["index"], row["text"], row["score"]) for row in rows]
    kind = "probability" if pipeline.task == "pretrain" else "log_odds"
    return MatchAnswer(**vars(rest), texts=found, score_kind=kind)


@about.get("/info", responses=documented(401, 403, 503))
async def info(answers: Answers) -> ServerInfo:
    """Return what this server can do."""
    limits: dict[str, Any] = asdict(answers.settings.limits)
    shown = {name: limits[name] for name in LimitsInfo.__dataclass_fields__}
    return ServerInfo(
        __version__, answers.models.ready, answers.models.names(), LimitsInfo(**shown), answers.library.exists
    )
