"""Which texts a task reads: of its kind, and about the kind of media it is for where there are any."""

import pandas as pd
import pytest

from clipbert.config.schema import Params
from clipbert.errors import ClipBertError
from clipbert.tasks import make_task


def texts(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Open questions of (id, split, media kind), each about a media of its own."""
    return pd.DataFrame(
        [
            {
                "id": identity,
                "kind": "open_qa",
                "split": split,
                "media": identity,
                "media_kind": kind,
                "text": "?",
                "answer": "red",
                "answer_type": None,
                "answers": None,
                "answer_scores": None,
            }
            for identity, split, kind in rows
        ]
    )


BOTH = texts(("a", "train", "video"), ("b", "train", "image"), ("c", "test", "video"), ("d", "test", "image"))


def media(task: str, table: pd.DataFrame, split: str) -> list[str]:
    return [example.media for example in make_task(task, Params().tasks).examples.read(table, split)]


def test_videos_and_images_go_to_the_task_that_is_for_them() -> None:
    assert (media("open_qa", BOTH, "train"), media("open_qa", BOTH, "test")) == (["a"], ["c"])
    assert (media("image_qa", BOTH, "train"), media("image_qa", BOTH, "test")) == (["b"], ["d"])


def test_a_task_without_its_kind_of_media_in_training_takes_the_other() -> None:
    images = texts(("b", "train", "image"), ("c", "test", "video"), ("d", "test", "image"))
    assert (media("open_qa", images, "train"), media("open_qa", images, "test")) == (["b"], ["c", "d"])
    videos = texts(("a", "train", "video"), ("c", "test", "video"))
    assert (media("image_qa", videos, "train"), media("image_qa", videos, "test")) == (["a"], ["c"])


def test_a_split_that_has_only_the_other_kind_of_media_is_named() -> None:
    table = texts(("a", "train", "video"), ("d", "test", "image"))
    with pytest.raises(ClipBertError, match=r"open_qa: the manifest holds no open_qa texts about videos in split test"):
        make_task("open_qa", Params().tasks).examples.read(table, "test")


def test_captions_come_with_the_questions_of_their_media() -> None:
    caption = {"id": "k", "kind": "caption", "split": "train", "media": "b", "media_kind": "image", "text": "a ring"}
    table = pd.concat([BOTH, pd.DataFrame([caption])], ignore_index=True)
    (example,) = make_task("image_qa", Params().tasks).examples.read(table, "train")
    assert example.captions == ["a ring"]
