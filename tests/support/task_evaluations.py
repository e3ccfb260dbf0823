"""An evaluation of each task with numbers that can be checked by hand, and what a report shows of a training."""

import pandas as pd

from clipbert.config.schema import Params
from clipbert.evaluation.report.origin import Origin
from clipbert.evaluation.report.page import Training
from clipbert.evaluation.run import Evaluation
from clipbert.tasks import make_task, task_class
from clipbert.tasks.batch import Example

MEDIA = "videos/clip_0000.mp4"


def retrieval() -> Evaluation:
    def items(ranks: list[int]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "item_id": [f"c{i}" for i in range(len(ranks))],
                "score": [float(rank == 1) for rank in ranks],
                "chance": 0.25,
                "rank": ranks,
                "gallery": 4,
                "text": [f"<text> & number {i}" for i in range(len(ranks))],
                "media": MEDIA,
                "top_media": [[MEDIA]] * len(ranks),
                "top_scores": [[1.5]] * len(ranks),
            }
        )

    own, blank = items([1, 1, 2, 4]), items([4, 4, 4, 4])
    metrics = make_task("retrieval", Params().tasks).evaluator.metrics(own) | {
        "retrieval/chance_r1": 25.0,
        "retrieval/chance_r5": 100.0,
        "retrieval/chance_r10": 100.0,
        "retrieval/chance_median_rank": 2.5,
    }
    metrics |= {f"retrieval/blank_frames_r{k}": 0.0 for k in (1, 5, 10)} | {"retrieval/blank_frames_median_rank": 4.0}
    return Evaluation("retrieval", metrics, own, blank)


def open_qa() -> Evaluation:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "score": [1.0, 0.0, 1.0],
            "chance": 0.5,
            "answer_type": ["color", "color", "count"],
            "question": ["what color?", "what color?", "how many?"],
            "answer": ["red", "blue", "two"],
            "predicted": ["red", "red", "two"],
            "confidence": [0.9, 0.4, 0.8],
            "in_vocabulary": True,
            "answer_rank": [1.0, 3.0, 1.0],
            "media": MEDIA,
        }
    )
    metrics = {
        "open_qa/accuracy": 66.7,
        "open_qa/majority_accuracy": 33.3,
        "open_qa/blank_frames_accuracy": 33.3,
        "open_qa/chance_accuracy": 50.0,
        "open_qa/questions": 3.0,
        "open_qa/answer_coverage": 100.0,
    }
    return Evaluation("open_qa", metrics, items, items.assign(score=[1.0, 0.0, 0.0]))


def multiple_choice() -> Evaluation:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "score": [1.0, 0.0],
            "chance": [0.5, 1 / 3],
            "answer_type": ["color", "order"],
            "question": ["what color?", "which is first?"],
            "options": [["red", "blue"], ["the star", "the ring", "the <cross>"]],
            "right": [0, 1],
            "answer": ["red", "the ring"],
            "predicted": ["red", "the star"],
            "confidence": [0.9, 0.4],
            "media": MEDIA,
        }
    )
    task = make_task("multiple_choice", Params().tasks)
    train = [Example(MEDIA, ["q"], ["?"], ["x"], [""], options=[["x", "y"]], right=[0])]
    metrics = (
        task.evaluator.metrics(items)
        | task.evaluator.baselines(items, train)
        | {"multiple_choice/blank_frames_accuracy": 25.0}
    )
    return Evaluation("multiple_choice", metrics, items, items)


def image_qa() -> Evaluation:
    items = open_qa().items.assign(
        score=[1.0, 0.3, 0.0],
        exact=[1.0, 0.0, 0.0],
        right_answers=[["red"], ["blue", "red"], ["three"]],
        right_scores=[[1.0], [1.0, 0.3], [1.0]],
    )
    task = make_task("image_qa", Params().tasks)
    train = [Example(MEDIA, ["q"], ["?"], ["red"], [""], scores=[{"red": 1.0}])]
    blank = {"image_qa/blank_frames_accuracy": 12.5, "image_qa/blank_frames_exact": 7.5}
    return Evaluation(
        "image_qa", task.evaluator.metrics(items) | task.evaluator.baselines(items, train) | blank, items, items
    )


def captioning() -> Evaluation:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "score": [0.75, 0.25],
            "chance": 0.0,
            "predicted": ["a <red> square", "a circle"],
            "references": [["a red square", "the square is red"], ["a green circle"]],
            "log_probability": [-1.5, -2.0],
            "media": MEDIA,
        }
    )
    task = make_task("captioning", Params().tasks)
    train = [Example(MEDIA, ["c"], ["a red circle"], [""], [""])]
    blank = {f"captioning/blank_frames_{name}": 1.0 for name in ("cider", "bleu4", "rouge_l")}
    metrics = task.evaluator.metrics(items) | task.evaluator.baselines(items, train) | blank
    return Evaluation("captioning", metrics, items, items.assign(score=[0.0, 0.125]))


def pretrain() -> Evaluation:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "answer_type": "all",
            "score": [0.75, 0.25],
            "chance": 0.25,
            "masked_tokens": [[7, 9], [7, 8, 5]],
            "predicted_tokens": [[7, 8], [6, 8, 7]],
            "mlm_right": [1, 1],
            "itm_score": [1.0, 0.5],
            "matched": [0.9, 0.2],
            "wrong_matched": [0.1, 0.4],
            "answer": ["2 masked", "3 masked"],
            "predicted": ["1 right", "1 right"],
            "text": ["a <red> square", "a circle"],
            "wrong_text": ["a circle", "a <red> square"],
            "media": MEDIA,
        }
    )
    task = make_task("pretrain", Params().tasks)
    blank = {f"pretrain/blank_frames_{name}": 7.5 for name in ("accuracy", "mlm_accuracy", "itm_accuracy")}
    metrics = task.evaluator.metrics(items) | task.evaluator.baselines(items, []) | blank
    return Evaluation("pretrain", metrics, items, items.assign(mlm_right=[0, 1], matched=[0.4, 0.3]))


EVALUATIONS = (retrieval, open_qa, multiple_choice, image_qa, captioning, pretrain)


def training(task: str) -> Training:
    """What the report shows of a training of three steps on two videos."""
    main = task_class(task).evaluator_class.main_metric
    run = {
        "run_id": "0123456789abcdef",
        "run_name": f"{task} of the test",
        "tracking_uri": "sqlite:///mlflow/mlflow.db",
        "seconds": 138.2,
        "params": {"train.lr": "0.002", "seed": "0", "train.batch_size": "32"},
        "tags": {
            "clipbert.data_digest": "06a540fb13514a6c.dir",
            "clipbert.git_commit": "8a36244649dd53fc5ee2368513b3373d75b094d4",
            "clipbert.git_dirty": "true",
            "clipbert.version": "0.3.0",
            "clipbert.device": "cpu (2 cores, x86_64)",
            "clipbert.pid_started": "1795827658.03",
        },
    }
    defaults = {"train.lr": 0.001, "seed": 0, "train.batch_size": 32.0}
    return Training(
        history=pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "joules": [None, 1800.0, 1800.0]}),
        validation=pd.DataFrame({"step": [2, 3], "epoch": [1, 2], main: [20.0, 10.0]}),
        main_metric=main,
        origin=Origin(run, {"train": (2, 5), "test": (1, 4)}, defaults),
        train=[Example(MEDIA, ["q", "r"], ["what color?", "how many?"], ["red", "one"], ["", ""])],
        videos=pd.DataFrame({"media": [MEDIA], "kind": ["video"], "duration_s": [3.0], "brightness": [100.0]}),
    )
