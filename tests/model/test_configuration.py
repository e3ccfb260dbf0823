import pytest
import torch

from clipbert.model import ClipBertConfig, ClipBertForOpenQA, ClipBertForRetrieval
from clipbert.model.configuration import BACKBONES
from clipbert.model.encoder_configs import PATCH_ENCODERS


def test_base_is_the_paper():
    config = ClipBertConfig.base(answers=["yes"])
    assert (config.image_size, config.clips, config.frames_per_clip, config.freeze_batch_norm) == (448, 8, 2, True)
    assert config.vision["downsample_in_bottleneck"]
    assert config.score_aggregation == "lse"
    with torch.device("meta"):
        model = ClipBertForOpenQA(config)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.clipbert.named_children()}
    assert parts["encoder"] == 85_054_464
    assert parts["embeddings"] == 23_837_184
    assert sum(p.numel() for p in model.clipbert.vision.backbone.parameters()) == 23_508_032
    assert model.clipbert.vision.projection.weight.shape == (768, 2048, 3, 3)


def test_tiny_is_small_and_takes_overrides():
    model = ClipBertForRetrieval(ClipBertConfig.tiny(num_hidden_layers=4))
    assert 1_000_000 < sum(p.numel() for p in model.parameters()) < 2_000_000
    assert len(model.clipbert.encoder.layer) == 4
    visual = model.encode_video(torch.zeros(1, 1, 2, 3, 96, 96, dtype=torch.uint8))
    assert visual.shape == (1, 1, 9, 128)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("score_aggregation", "sum", "score_aggregation is 'sum': expected one of ['lse', 'mean', 'max']."),
        ("retrieval_loss", "bce", "retrieval_loss is 'bce': expected one of ['ce', 'ranking']."),
        ("answer_loss", "mse", "answer_loss is 'mse': expected one of ['ce', 'bce']."),
        ("clips", 0, "clips is 0: expected an integer above 0."),
        ("clips", True, "clips is True: expected an integer above 0."),
        (
            "hidden_act",
            "glue",
            "hidden_act is 'glue': expected an activation function of transformers, such as 'gelu'.",
        ),
        ("hidden_act", 3, "hidden_act is 3: expected an activation function of transformers, such as 'gelu'."),
        ("pad_token_id", 2048, "pad_token_id is 2048: expected None or an integer from 0 to 2047."),
        ("pad_token_id", "0", "pad_token_id is '0': expected None or an integer from 0 to 2047."),
        ("freeze_batch_norm", "yes", "freeze_batch_norm is 'yes': expected true or false."),
        ("hidden_size", "128", "hidden_size is '128': expected an integer above 0."),
        ("hidden_size", 130, "hidden_size is 130: expected a multiple of num_attention_heads (4)."),
        ("hidden_dropout_prob", 1.0, "hidden_dropout_prob is 1.0: expected in [0, 1)."),
        ("projection_size", -1, "projection_size is -1: expected None or an integer above 0."),
        ("image_std", [1.0, 0.0, 1.0], "image_std is [1.0, 0.0, 1.0]: expected 3 numbers above 0."),
        ("image_mean", [1.0], "image_mean is [1.0]: expected 3 numbers (R, G, B)."),
        ("answers", ["a", "a"], "answers is ['a', 'a']: expected None or a list of different non-empty strings."),
        (
            "max_text_length",
            129,
            "max_text_length is 129: expected at most max_position_embeddings (128) after padding to a multiple of 8.",
        ),
        (
            "vision",
            {"model_type": "vgg"},
            f"vision.model_type is 'vgg': expected one of {sorted([*BACKBONES, *PATCH_ENCODERS])}, the models with "
            "feature maps for transformers' AutoBackbone or with patch tokens.",
        ),
        (
            "vision",
            {"model_type": "dinov2", "hidden_size": 16, "num_attention_heads": 2, "patch_size": 14},
            "image_size is 96: expected a multiple of vision.patch_size (14).",
        ),
        (
            "vision",
            {"model_type": "convnext", "num_channels": 1},
            "vision.num_channels is 1: expected 3, for RGB frames.",
        ),
        (
            "vision",
            {"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1]},
            "vision.depths is [1]: expected 2 values, as many as vision.hidden_sizes.",
        ),
    ],
)
def test_a_bad_value_names_the_field_and_what_is_allowed(field, value, message):
    with pytest.raises(ValueError, match="expected") as caught:
        ClipBertConfig.tiny(**{field: value})
    assert str(caught.value) == message


def test_open_qa_needs_answers():
    with pytest.raises(ValueError, match=r"answers is None: open QA needs the list of answers in config\.answers"):
        ClipBertForOpenQA(ClipBertConfig.tiny())


def test_round_trip_keeps_every_field(tmp_path):
    config = ClipBertConfig.tiny(answers=["red", "blue"], image_mean=[1.5, 2.5, 3.5], score_aggregation="max")
    config.save_pretrained(tmp_path)
    found, expected = ClipBertConfig.from_pretrained(tmp_path).to_dict(), config.to_dict()
    for fields in (found, expected):
        fields.pop("_name_or_path", None)
    assert found == expected
