"""What a reader looks for first, task by task: the report's cards and the rows of `clipbert summary`.

Without torch, so that a summary is there at once.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Headline:
    """A metric (its name after `TASK/`) and what it stands beside: (words, metric) pairs, the trivial baseline first.

    `percent` adds the sign in the report; `card` is its name there, `row` its name in the summary (None: not there).
    """

    card: str
    metric: str
    beside: tuple[tuple[str, str], ...] = ()
    row: str | None = None
    percent: bool = True

    def value(self, task: str, metrics: dict[str, float], metric: str) -> str:
        """A metric as the report writes it."""
        number = metrics[f"{task}/{metric}"]
        if self.percent:
            return f"{number:.1f} %"
        return f"{number:.0f}" if number == round(number) else f"{number:.1f}"


BLANK = "blank frames"

# Trivial baselines of each task that a first champion has to beat: column of the predictions to its name.
_EVERYWHERE = {"chance": "chance", "blank_frames_score": BLANK}
BASELINES: dict[str, dict[str, str]] = {
    "retrieval": _EVERYWHERE,
    "open_qa": {**_EVERYWHERE, "majority_score": "majority answer"},
    "multiple_choice": {
        **_EVERYWHERE,
        "majority_score": "most frequent position",
        "frequent_option_score": "most frequent option",
    },
    "image_qa": {**_EVERYWHERE, "majority_score": "majority answer"},
    "captioning": {**_EVERYWHERE, "constant_score": "best constant caption"},
    "pretrain": {**_EVERYWHERE, "majority_score": "most frequent token"},
}

TITLES = {
    "retrieval": "Text-to-video retrieval",
    "open_qa": "Open-ended video question answering",
    "multiple_choice": "Multiple-choice video question answering",
    "image_qa": "Question answering about images",
    "captioning": "Video captioning",
    "pretrain": "Image-text pretraining",
}

HEADLINES: dict[str, tuple[Headline, ...]] = {
    "retrieval": (
        *(
            Headline(
                f"R@{k}",
                f"r{k}",
                (("chance", f"chance_r{k}"), (BLANK, f"blank_frames_r{k}")),
                row=f"text-to-video R@{k}, %",
            )
            for k in (1, 5, 10)
        ),
        Headline(
            "median rank",
            "median_rank",
            (("chance", "chance_median_rank"), (BLANK, "blank_frames_median_rank"), ("of", "gallery")),
            row="median rank",
            percent=False,
        ),
        Headline(
            "videos judged for a text",
            "judged",
            (("of", "gallery"), ("its own among them, %", "first_stage_recall")),
            percent=False,
        ),
    ),
    "open_qa": (
        Headline(
            "accuracy",
            "accuracy",
            (("majority answer", "majority_accuracy"), (BLANK, "blank_frames_accuracy"), ("chance", "chance_accuracy")),
            row="open QA accuracy, %",
        ),
        Headline("questions", "questions", percent=False),
        Headline("answers in vocabulary", "answer_coverage"),
    ),
    "multiple_choice": (
        Headline(
            "accuracy",
            "accuracy",
            (
                ("chance", "chance_accuracy"),
                (BLANK, "blank_frames_accuracy"),
                ("most frequent position", "majority_accuracy"),
            ),
            row="multiple choice accuracy, %",
        ),
        Headline("questions", "questions", percent=False),
    ),
    "image_qa": (
        Headline(
            "VQA accuracy",
            "accuracy",
            (("majority answer", "majority_accuracy"), (BLANK, "blank_frames_accuracy"), ("chance", "chance_accuracy")),
            row="image QA accuracy, %",
        ),
        Headline("best answer", "exact", ((BLANK, "blank_frames_exact"),)),
        Headline("questions", "questions", percent=False),
        Headline("answers in vocabulary", "answer_coverage"),
    ),
    "captioning": (
        Headline(
            "CIDEr",
            "cider",
            (("best constant caption", "constant_cider"), (BLANK, "blank_frames_cider")),
            row="captioning CIDEr",
            percent=False,
        ),
        Headline("BLEU-4", "bleu4", (("best constant caption", "constant_bleu4"), (BLANK, "blank_frames_bleu4"))),
        Headline(
            "ROUGE-L", "rouge_l", (("best constant caption", "constant_rouge_l"), (BLANK, "blank_frames_rouge_l"))
        ),
        Headline("different captions", "different", (("videos", "videos"),), percent=False),
    ),
    "pretrain": (
        Headline(
            "masked tokens",
            "mlm_accuracy",
            (("most frequent token", "majority_mlm_accuracy"), (BLANK, "blank_frames_mlm_accuracy")),
            row="masked tokens told, %",
        ),
        Headline(
            "image-text matching",
            "itm_accuracy",
            (("always the same", "majority_itm_accuracy"), (BLANK, "blank_frames_itm_accuracy")),
            row="image-text matching, %",
        ),
        Headline("texts", "texts", percent=False),
    ),
}
