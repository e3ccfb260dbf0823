"""The model card: front matter that huggingface_hub reads offline, and figures that are the metrics file's."""

import pytest
from huggingface_hub import ModelCard

from clipbert.config.tasks import task_names
from clipbert.model.weights.card import CARD, model_card, table, with_results, write_card
from clipbert.tasks import task_class

RETRIEVAL = task_class("retrieval").card
METRICS = {"retrieval/r1": 42.5, "retrieval/median_rank": 2.0, "retrieval/chance_r1": 0.625, "retrieval/gallery": 160.0}


def read(tmp_path, text):
    write_card(tmp_path, text)
    return ModelCard.load(tmp_path / CARD)


@pytest.mark.parametrize("task", task_names())
def test_front_matter_and_use(tmp_path, task):
    text = task_class(task).card
    card = read(tmp_path, model_card(text, "models/mine", "ClipBertForThis", {"Data": "what there was"}))
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == text.pipeline_tag
    assert "clipbert" in card.data.tags
    assert card.data.metrics == list(text.metrics)
    assert card.data.eval_results is None
    code = card.text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert '"models/mine"' in code
    assert "`ClipBertForThis`" in card.text
    assert "## Data\n\nwhat there was" in card.text


def test_results_are_those_of_the_metrics_file(tmp_path):
    card = read(tmp_path, with_results(model_card(RETRIEVAL, "m", "C", {}), "retrieval", METRICS, "abc", "Measured."))
    found = {result.metric_name: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        name: value for name, value in METRICS.items() if name != "retrieval/chance_r1"
    }
    assert card.data.model_name == "clipbert-retrieval"
    one = found["retrieval/r1"]
    assert (one.dataset_name, one.dataset_split, one.dataset_revision) == ("data", "test", "abc")
    assert (one.metric_type, one.task_type) == ("r1", card.data.pipeline_tag)
    for name, value in METRICS.items():
        assert f"| {name} | {value} |" in card.text


def test_new_results_replace_the_old(tmp_path):
    first = with_results(model_card(RETRIEVAL, "m", "C", {"Data": "d"}), "retrieval", METRICS, "abc", "Once.")
    again = with_results(first, "retrieval", METRICS, "abc", "Once.")
    assert again == first
    other = with_results(first, "retrieval", {"retrieval/r1": 50.0}, "def", "Twice.")
    card = read(tmp_path, other)
    assert [result.metric_value for result in card.data.eval_results] == [50.0]
    assert "42.5" not in other
    assert "Once" not in other
    assert "## Data\n\nd\n" in other


def test_a_bar_in_a_cell_is_no_column():
    assert table(("a", "b"), [("x|y", "1\n2")]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 2 |"
