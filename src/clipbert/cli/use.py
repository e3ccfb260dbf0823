"""Commands that use a model on one video: ask, caption, choose and match."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from clipbert.cli.model_choice import ChosenModel, choose_model
from clipbert.cli.options import project
from clipbert.console import console
from clipbert.errors import ClipBertError

using = typer.Typer(rich_markup_mode="markdown")
PANEL = "Use"
ASK, CHOOSE, CAPTION, MATCH = ("open_qa", "image_qa"), ("multiple_choice",), ("captioning",), ("retrieval", "pretrain")

Video = Annotated[Path, typer.Argument(metavar="VIDEO", help="A video or image file.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A model folder, a registered version (models:/NAME@champion) or a hub id. Default: the champion, else "
        "the last trained model of the project.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Explain = Annotated[
    Path | None,
    typer.Option("--explain", metavar="FILE.png", help="Write a picture of the frames and words that count."),
]
Start = Annotated[float | None, typer.Option("--start", metavar="SECONDS", help="Use the video from here.")]
End = Annotated[float | None, typer.Option("--end", metavar="SECONDS", help="Use the video up to here.")]


@using.command(epilog='Example: `clipbert ask a.mp4 "what color is the circle?"`', rich_help_panel=PANEL)
def ask(
    video: Video,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")],
    model: Model = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Show this many answers.")] = 3,
    as_json: AsJson = False,
    explain: Explain = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Answer a question about a video."""
    with _Session(video, start, end, model, ASK, explain) as session:
        found = session.call(question=question, top=top)
        session.remark([question], answers=True)
        session.explain(question, found[0]["answer"], question, _confidence(found[0]))
        rows = [(row["answer"], _percent(_confidence(row))) for row in found]
        session.print(as_json, {"question": question, "answers": list(found)}, rows)


@using.command(
    epilog='Example: `clipbert choose a.mp4 "which way does it move?" --options left --options right`',
    rich_help_panel=PANEL,
)
def choose(
    video: Video,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")],
    options: Annotated[list[str], typer.Option("--options", metavar="TEXT", help="An option. Give it for each one.")],
    model: Model = None,
    as_json: AsJson = False,
    explain: Explain = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Choose the best of several answers to a question about a video."""
    if len(options) < 2:
        raise ClipBertError(f"--options: {len(options)} option is given: expected two or more, each with --options.")
    with _Session(video, start, end, model, CHOOSE, explain) as session:
        found = session.call(question=question, options=options)
        session.remark([question, *options], answers=True)
        session.explain(question, found[0]["answer"], question, _confidence(found[0]), options)
        rows = [(row["answer"], _percent(_confidence(row))) for row in found]
        session.print(as_json, {"question": question, "options": options, "answers": list(found)}, rows)


@using.command(epilog="Example: `clipbert caption a.mp4`", rich_help_panel=PANEL)
def caption(
    video: Video,
    model: Model = None,
    as_json: AsJson = False,
    explain: Explain = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Describe a video in a sentence."""
    with _Session(video, start, end, model, CAPTION, explain) as session:
        (found,) = session.call()
        if not found["caption"]:
            raise ClipBertError(f"{session.chosen.name}: the model wrote an empty caption. Train it longer.")
        session.remark([])
        session.explain(f"A caption of {video.name}", found["caption"], "", None)
        session.print(as_json, dict(found), [(found["caption"], f"log-probability {found['score']:.2f}")])


@using.command(epilog='Example: `clipbert match a.mp4 "a red circle" "a blue square"`', rich_help_panel=PANEL)
def match(
    video: Video,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One text or more, each in quotes.")],
    model: Model = None,
    as_json: AsJson = False,
    explain: Explain = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Score how well texts describe a video, best first."""
    with _Session(video, start, end, model, MATCH, explain) as session:
        scores = session.pipeline.match(session.pipeline.encode([session.item()]), texts)
        order = sorted(range(len(texts)), key=lambda place: -scores[place])
        found = [{"index": place, "text": texts[place], "score": scores[place]} for place in order]
        session.remark(texts)
        session.explain(f"Best of {len(texts)} texts for {video.name}", texts[order[0]], texts[order[0]], None)
        probability = session.pipeline.task == "pretrain"
        rows = [(row["text"], _percent(row["score"]) if probability else f"{row['score']:.2f}") for row in found]
        session.print(as_json, {"texts": found}, rows)


class _Session:
    """A video and a model in one command: the video is decoded in another process while torch is imported.

    Attributes:
        chosen: the model.
        pipeline: of the model; known in the `with` block.
    """

    def __init__(
        self,
        video: Path,
        start: float | None,
        end: float | None,
        model: str | None,
        tasks: Sequence[str],
        picture: Path | None,
    ) -> None:
        self.video, self.start, self.end = video, start, end
        self.tasks, self.picture = tasks, picture
        self.given = model
        self.drawn: Path | None = None
        self.remarks: list[str] = []
        self.chosen: ChosenModel
        self.pipeline: Any = None
        self._scratch = ExitStack()

    def __enter__(self) -> "_Session":
        if self.picture is not None and self.picture.suffix.lower() != ".png":
            raise ClipBertError(f"--explain {self.picture}: expected the name of a PNG, such as explain.png.")
        if self.picture is not None and not self.picture.absolute().parent.is_dir():
            raise ClipBertError(
                f"--explain {self.picture}: the folder {self.picture.parent} does not exist. Create it."
            )
        from clipbert.sampling.video_input import existing_file

        existing_file(self.video)
        with self._scratch as opened:
            self.chosen = choose_model(project(), self.given, self.tasks, opened)
            decoded = self._decode_ahead()
            self.pipeline = self._load()
            decoded.result()
            self._scratch = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def _decode_ahead(self) -> "Future[Any]":
        """Start to decode the video with the settings of the model folder, and return its future."""
        from clipbert.config.schema import FramesParams
        from clipbert.sampling.video_input import decode_known

        try:
            stored = json.loads((self.chosen.folder / "processor_config.json").read_text())
            frames = FramesParams(**stored["frames"])
        except (OSError, ValueError, KeyError, TypeError):  # loading the processor reports what is wrong with it
            return _done()
        threads = ThreadPoolExecutor(1)
        future = threads.submit(decode_known, self.video, frames)
        threads.shutdown(wait=False)
        return future

    def _load(self) -> Any:
        from clipbert.inference.pipelines import pipeline

        loaded = pipeline(None, self.chosen.folder)
        if loaded.task not in self.tasks:
            raise ClipBertError(
                f"{self.chosen.name}: is a model of {loaded.task}: expected one of {' or '.join(self.tasks)}. Give "
                "another one with --model."
            )
        return loaded

    def item(self) -> Any:
        """Return the video as a pipeline takes it."""
        if self.start is None and self.end is None:
            return self.video
        return {"video": self.video, "start_s": self.start, "end_s": self.end}

    def call(self, **arguments: Any) -> Any:
        """Return what the pipeline says about the video.

        Raises:
            ClipBertError: a value that the pipeline does not take.
        """
        return self._checked(lambda: self.pipeline(self.item(), **arguments))

    def remark(self, texts: Sequence[str], answers: bool = False) -> None:
        """Note how the video and the texts differ from those of the training, and an uncalibrated confidence.

        Args:
            answers: whether the command shows probabilities of answers.
        """
        self.remarks = self._checked(lambda: self.pipeline.remarks(self.item(), texts))
        if answers and self.pipeline.calibration is None:
            self.remarks.append("the confidence is not calibrated")

    def explain(self, title: str, answer: str, text: str, score: float | None, options: Sequence[str] = ()) -> None:
        """Draw the picture of an answer, where one is wanted."""
        if self.picture is None:
            return
        from clipbert.inference.explain import explain
        from clipbert.inference.explain_picture import draw

        found = self._checked(lambda: explain(self.pipeline, self.item(), text, answer, options))
        remark = "" if score is None else f"{_percent(score)}, "
        draw(
            found,
            title,
            answer,
            "\n".join([f"{remark}{self.video.name}, {self.chosen.name}", *self.remarks]),
            self.picture,
            not text,
        )
        self.drawn = self.picture

    @staticmethod
    def _checked(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ValueError as error:  # of the segment, or of a text
            raise ClipBertError(str(error)) from error

    def print(self, as_json: bool, found: dict[str, Any], rows: Sequence[tuple[str, str]]) -> None:
        """Print the answers, best first, and which model gave them."""
        if as_json:
            about: dict[str, Any] = {"video": str(self.video)}
            about |= {} if self.start is None and self.end is None else {"start_s": self.start, "end_s": self.end}
            model = {"name": self.chosen.name, "folder": str(self.chosen.folder), "task": self.pipeline.task}
            about_answers = {"calibrated": self.pipeline.calibration is not None} if "answers" in found else {}
            found |= about_answers | {"remarks": self.remarks}
            picture = {} if self.drawn is None else {"explain": str(self.drawn)}
            typer.echo(json.dumps(about | found | {"model": model} | picture, indent=2, ensure_ascii=False))
            return
        width = max(len(text) for text, _ in rows)
        for text, score in rows:
            console.print(f"{text:<{width}}  {score}")
        for remark in self.remarks:
            console.print(f"note: {remark}")
        console.print(f"model: {self.chosen.name}")
        if self.drawn is not None:
            console.print(f"explanation: {self.drawn}")


def _done() -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(None)
    return future


def _confidence(row: dict[str, Any]) -> float:
    """Return the calibrated confidence of an answer, or else its probability."""
    found: float = row.get("confidence", row["score"])
    return found


def _percent(score: float) -> str:
    return f"{100 * score:.1f} %"
