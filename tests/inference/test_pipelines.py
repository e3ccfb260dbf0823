import io

import numpy as np
import pytest
import torch
from PIL import Image

from clipbert import pipeline
from clipbert.config.schema import FramesParams
from clipbert.errors import ClipBertError
from clipbert.model import (
    ClipBertConfig,
    ClipBertForCaptioning,
    ClipBertForMultipleChoice,
    ClipBertForOpenQA,
    ClipBertForPreTraining,
    ClipBertForRetrieval,
    ClipBertModel,
    ClipBertProcessor,
    Decoding,
)

pytestmark = pytest.mark.slow  # the pool that decodes files starts processes

ANSWERS = ["red", "blue", "two"]


@pytest.fixture
def folder(tmp_path):
    def make(kind, **fields):
        torch.manual_seed(0)
        tokenizer = ClipBertProcessor.train_tokenizer(["a red circle", "what color is it"] * 2)
        config = ClipBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=32,
            vision={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1]},
            image_size=64,
            clips=2,
            frames_per_clip=2,
            answers=ANSWERS,
            **fields,
        )
        kind(config).save_pretrained(tmp_path / "model")
        ClipBertProcessor.for_config(config, tokenizer).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return make


@pytest.fixture
def videos(tiny_video, tmp_path):
    return [tiny_video(tmp_path / f"{seed}.mp4", seed=seed) for seed in range(3)]


@pytest.mark.parametrize("projection", [None, 8])
def test_search_sorts_the_videos_by_the_evaluations_score(folder, videos, projection):
    search = pipeline("retrieval", folder(ClipBertForRetrieval, projection_size=projection))
    found = search("a red circle", videos)
    assert sorted(row["index"] for row in found) == [0, 1, 2]
    assert all(row["video"] == videos[row["index"]] for row in found)
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    pixels = search.processor(frames=videos, texts=["a red circle"] * 3)
    with torch.inference_mode():
        expected = search.model.match_scores(search.model(**pixels).logits)
        if projection is not None:
            text = search.model.get_text_features(pixels["input_ids"][:1], pixels["attention_mask"][:1])
            features = search.model.get_video_features(search.model.encode_video(pixels["pixel_values"]))
            expected = expected + search.model.similarity(text, features)[0]
    for row in found:
        assert row["score"] == pytest.approx(float(expected[row["index"]]), abs=1e-4)


def test_ask_gives_probabilities_of_the_answers(folder, videos):
    ask = pipeline(model=folder(ClipBertForOpenQA))
    found = ask(videos[0], "what color is it")
    assert {row["answer"] for row in found} == set(ANSWERS)
    assert sum(row["score"] for row in found) == pytest.approx(1)
    assert ask(videos[0], "what color is it", top=1) == found[:1]
    with pytest.raises(ValueError, match="top is 0: expected at least 1"):
        ask(videos[0], "what color is it", top=0)


def test_choose_orders_the_options(folder, videos):
    choose = pipeline("multiple_choice", folder(ClipBertForMultipleChoice))
    found = choose(videos[0], "what color is it", ["red", "circle"])
    assert {(row["option"], row["answer"]) for row in found} == {(0, "red"), (1, "circle")}
    assert found[0]["score"] >= found[1]["score"]
    with pytest.raises(ValueError, match=r"options is \[\]: expected a list"):
        choose(videos[0], "what color is it", [])


def test_describe_says_what_the_search_finds(folder, videos):
    describe = pipeline("captioning", folder(ClipBertForCaptioning))
    (found,) = describe(videos[0])
    pixels = describe.processor(frames=[videos[0]])["pixel_values"]
    words = describe.processor.tokenizer
    search = {"beams": 2, "max_length": 4, "length_penalty": 0.5, "no_repeat_ngram": 2}
    for options, row in (({"beams": 3, "max_length": 64}, found), (search, describe(videos[0], **search)[0])):
        ids, scores = describe.model.generate(
            pixels, start=words.cls_token_id, end=words.sep_token_id, decoding=Decoding(**options)
        )
        assert row == {
            "caption": words.decode(ids[0], skip_special_tokens=True),
            "score": pytest.approx(float(scores[0]), abs=1e-4),
        }
    assert len(words.tokenize(row["caption"])) <= 4


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"num_beams": 3}, "num_beams is not a search option: expected some of beams, max_length, length_penalty"),
        ({"beams": 0}, "beams is 0: expected 1 or more"),
        ({"max_length": 17}, "max_length is 17: expected at most 16, config.max_position_embeddings"),
    ],
)
def test_a_bad_search_is_named(folder, videos, search, message):
    describe = pipeline("captioning", folder(ClipBertForCaptioning, max_position_embeddings=16, max_text_length=8))
    assert set(describe(videos[0])[0]) == {"caption", "score"}
    with pytest.raises(ValueError, match=message):
        describe(videos[0], **search)


def test_a_pretrained_model_matches_texts_with_an_image(folder, videos):
    model = folder(ClipBertForPreTraining)
    texts = ["a red circle", "what color is it"]
    match = pipeline(model=model)
    assert match.task == "pretrain"
    found = match(videos[0], texts)
    assert sorted(row["index"] for row in found) == [0, 1]
    assert all(row["text"] == texts[row["index"]] for row in found)
    assert 1 >= found[0]["score"] >= found[1]["score"] >= 0
    pixels = match.processor(frames=[videos[0]] * 2, texts=texts)
    with torch.inference_mode():
        logits = match.model(**pixels).itm_logits
    expected = torch.logsumexp(logits, dim=1).softmax(dim=1)[:, 1]
    for row in found:
        assert row["score"] == pytest.approx(float(expected[row["index"]]), abs=1e-4)
    for none in ([], "a red circle"):
        with pytest.raises(ValueError, match="expected a list of at least one text"):
            match(videos[0], none)
    with pytest.raises(ClipBertError, match="ClipBertForPreTraining, which is for pretrain: expected a model for retr"):
        pipeline("retrieval", model)


def test_a_path_and_its_bytes_are_the_same_video(folder, videos):
    processor = ClipBertProcessor.from_pretrained(folder(ClipBertForRetrieval))
    pixels = processor(frames=[str(videos[0]), videos[0].read_bytes()])["pixel_values"]
    assert torch.equal(pixels[0], pixels[1])


def test_an_image_is_a_video_of_one_frame_however_it_comes(folder):
    processor = ClipBertProcessor.from_pretrained(folder(ClipBertForRetrieval))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    content = io.BytesIO()
    image.save(content, "png")
    pixels = processor(frames=[image, [image], np.asarray(image)[None], content.getvalue()])["pixel_values"]
    assert all(torch.equal(pixels[0], other) for other in pixels[1:])


def test_what_is_no_video(folder, tmp_path):
    processor = ClipBertProcessor.from_pretrained(folder(ClipBertForRetrieval))
    with pytest.raises(ClipBertError, match=r"https://a/b\.mp4: is a URL: expected a local file"):
        processor(frames=["https://a/b.mp4"])
    with pytest.raises(ClipBertError, match=r"<4 bytes>.*cannot be decoded"):
        processor(frames=[b"none"])
    with pytest.raises(ClipBertError, match=r"gone\.mp4"):
        processor(frames=[tmp_path / "gone.mp4"])
    with pytest.raises(ValueError, match=r"pass one video as a list"):
        processor(frames="a.mp4")


def test_a_model_of_another_task(folder):
    with pytest.raises(ClipBertError, match="holds a ClipBertForRetrieval, which is for retrieval: expected a model"):
        pipeline("open_qa", folder(ClipBertForRetrieval))
    with pytest.raises(ClipBertError, match="holds a ClipBertModel, which is for no pipeline"):
        pipeline(model=folder(ClipBertModel))
    with pytest.raises(ClipBertError, match="search: no such task; expected one of retrieval"):
        pipeline("search", "anywhere")
    with pytest.raises(ClipBertError, match="model is missing: expected a model folder"):
        pipeline("retrieval")


def test_a_device_that_is_not_there(folder):
    with pytest.raises(ClipBertError, match=r"device is 'gpu': the model cannot go there \(Expected one of cpu"):
        pipeline("retrieval", folder(ClipBertForRetrieval), device="gpu")


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "videos is empty: expected a list of at least one video"),
        (None, "videos is None: expected a list of videos"),
        ("a.mp4", r"videos is 'a\.mp4': pass one video as a list, videos=\[video\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"videos has shape \(2, 8, 8, 3\): pass one video as a list"),
    ],
)
def test_a_search_in_no_list_of_videos(folder, videos, message):
    search = pipeline("retrieval", folder(ClipBertForRetrieval))
    with pytest.raises(ValueError, match=message):
        search("a red circle", videos)


def test_a_file_damaged_in_part_is_said_to_be(folder, tiny_video, tmp_path, caplog):
    processor = ClipBertProcessor.from_pretrained(folder(ClipBertForRetrieval))
    video = tiny_video(tmp_path / "cut.mkv", frames=64, options={"g": "8"})
    content = video.read_bytes()
    processor(frames=[content])
    assert caplog.messages == []
    middle = len(content) // 2
    processor(frames=[content[:middle] + bytes(200) + content[middle + 200 :]])
    assert any("bytes>: damaged: " in message for message in caplog.messages)


def test_the_stored_number_of_clips_is_shown_and_another_may_be_given(folder, videos):
    model = folder(ClipBertForOpenQA, initializer_range=0.5)
    settings = ClipBertProcessor.from_pretrained(model)
    settings.clips = 3
    settings.save_pretrained(model)
    stored = pipeline("open_qa", model)(videos[0], "what color is it")
    assert stored == pipeline("open_qa", model, clips=3)(videos[0], "what color is it")
    assert stored != pipeline("open_qa", model, clips=1)(videos[0], "what color is it")
    for clips in (0, 2.0, True):
        with pytest.raises(ClipBertError, match=f"clips is {clips}: expected an integer of 1 or more"):
            pipeline("open_qa", model, clips=clips)


def test_files_are_read_as_the_training_read_them(folder, tiny_video, tmp_path):
    """48 frames in 6 s: one candidate frame gives another score than 12."""
    long = tiny_video(tmp_path / "long.mp4", frames=48)
    model = folder(ClipBertForOpenQA, initializer_range=0.5)
    usual = pipeline("open_qa", model)(long, "what color is it")
    settings = ClipBertProcessor.from_pretrained(model)
    settings.frames = FramesParams(max_frames=1, size=48)
    settings.save_pretrained(model)
    stored = pipeline("open_qa", model)(long, "what color is it")
    assert stored == pipeline("open_qa", model, frames=settings.frames)(long, "what color is it")
    assert stored != usual


def test_a_large_picture_scores_the_same_as_its_file_bytes_and_array(folder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(tmp_path / "a.png")
    ask = pipeline("open_qa", folder(ClipBertForOpenQA, initializer_range=0.5))
    given = [tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), image, [image], noise[None]]
    answers = [ask(picture, "what color is it") for picture in given]
    assert all(answer == answers[0] for answer in answers[1:])


def test_white_space_is_collapsed_as_ingest_does(folder, videos):
    ask = pipeline("open_qa", folder(ClipBertForOpenQA, initializer_range=0.5))
    clean = ask(videos[0], "what color is it")
    assert clean == ask(videos[0], "  what\tcolor\x0bis\u00a0it\n")
    assert clean != ask(videos[0], "what coloris it")


def test_search_reranks_what_the_dual_encoder_ranks_first(folder, videos):
    search = pipeline("retrieval", folder(ClipBertForRetrieval, projection_size=8))
    everything = search("a red circle", videos)
    tokens = search.tokenize(["a red circle"])
    with torch.inference_mode():
        vectors = search.model.get_video_features(search.encode(videos))
        similarity = search.model.similarity(search.model.get_text_features(*tokens), vectors)[0]
    first = set(similarity.argsort(descending=True)[:2].tolist())
    found = search("a red circle", videos, rerank=2)
    assert [row["index"] for row in found] == [row["index"] for row in everything if row["index"] in first]
    for row in found:
        expected = next(other["score"] for other in everything if other["index"] == row["index"])
        assert row["score"] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="rerank is 0: expected at least 1"):
        search("a red circle", videos, rerank=0)


def test_a_batch_gives_the_scores_of_its_rows_alone(folder, videos):
    ask = pipeline("open_qa", folder(ClipBertForOpenQA, initializer_range=0.5))
    ask.batch_size = 3
    questions = ["what", "what color is it", "a red circle " * 8, "it is", "a"]
    together = ask.answer(ask.encode([videos[0]]), questions)
    for question, answers in zip(questions, together, strict=True):
        alone = {row["answer"]: row["score"] for row in ask(videos[0], question)}
        assert alone == pytest.approx({row["answer"]: row["score"] for row in answers}, abs=1e-5)


def test_a_pipeline_and_its_answers_are_readable_in_a_notebook(folder, videos):
    model = folder(ClipBertForOpenQA)
    ask = pipeline("open_qa", model)
    assert repr(ask).startswith(f"OpenQAPipeline(task='open_qa', folder={str(model)!r}, model=ClipBertForOpenQA with ")
    assert "image_size=64, clips=2 of 2 frames, device='cpu')" in repr(ask)
    found = ask(videos[0], "what color is it")
    page = found._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 1
    assert all(f"<td>{answer}</td>" in page for answer in ANSWERS)
    videos[0].unlink()
    assert "no frames" in found._repr_html_()


def test_a_search_shows_frames_of_each_video(folder, videos):
    page = pipeline("retrieval", folder(ClipBertForRetrieval))("a <red> circle", videos)._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "a &lt;red&gt; circle" in page


def test_a_segment_shows_the_candidate_frames_inside_it(folder, tiny_video, tmp_path):
    long = tiny_video(tmp_path / "long.mp4", frames=80, fps=8)  # 10 s: 20 candidate frames, at 0.25, 0.75, ...
    search = pipeline("retrieval", folder(ClipBertForRetrieval, projection_size=8))
    whole = search.processor.read_video(long, search.frames)
    parts = [{"video": long, "start_s": 2, "end_s": 4}, {"video": str(long), "start_s": 4}, {"video": long}, long]
    texts = ["a red circle"]
    found = {row["index"]: row for row in search("a red circle", parts)}
    for number, frames in enumerate((whole[4:8], whole[8:], whole, whole)):
        assert found[number]["score"] == pytest.approx(search.match(search.encode([frames]), texts)[0], abs=1e-4)
        assert found[number]["video"] is parts[number]
    # of a file's bytes, too
    content = {"video": long.read_bytes(), "start_s": 2.0, "end_s": 4.0}
    assert torch.equal(search.encode([content]), search.encode(parts[:1]))
    page = search("a red circle", parts[:2])._repr_html_()
    assert f"{long}, 2 to 4 s" in page
    assert page.count("data:image/jpeg;base64,") == 2


def test_segments_of_one_file_decode_it_once(folder, tiny_video, tmp_path, monkeypatch):
    from clipbert.sampling import video_input

    long = tiny_video(tmp_path / "long.mp4", frames=80, fps=8)
    read, decoded = video_input.read_frames, []
    monkeypatch.setattr(video_input, "read_frames", lambda path, *rest: decoded.append(path) or read(path, *rest))
    search = pipeline("retrieval", folder(ClipBertForRetrieval))
    video_input.forget_decoded()
    search.encode([{"video": long, "start_s": start, "end_s": start + 2} for start in range(4)])
    assert decoded == [long]


@pytest.mark.parametrize(
    ("start_s", "end_s", "message"),
    [
        (10, None, r"long\.mp4: start_s is 10, but the video lasts 10\.0 s: expected a segment inside it\."),
        (3, 12, r"end_s is 12, but the video lasts 10\.0 s: expected an end inside it\. Leave out end_s"),
        (3.3, 3.5, r"no candidate frame lies in the segment 3\.3 to 3\.5 s: they are 0\.5 s apart\. .*FramesParams"),
        (4, 3, r"frames\[0\]: end_s is 3 and start_s is 4: expected an end after the start\."),
        ("4", None, r"frames\[0\]: start_s is '4': expected seconds from the start of the video, 0 or more\."),
    ],
)
def test_a_segment_that_shows_nothing_is_named(folder, tiny_video, tmp_path, start_s, end_s, message):
    long = tiny_video(tmp_path / "long.mp4", frames=80, fps=8)
    ask = pipeline("open_qa", folder(ClipBertForOpenQA))
    with pytest.raises((ClipBertError, ValueError), match=message):
        ask({"video": long, "start_s": start_s, "end_s": end_s}, "what color is it")


def test_segments_need_a_file_with_times(folder, videos, tmp_path):
    ask = pipeline("open_qa", folder(ClipBertForOpenQA))
    array = ask.processor.read_video(videos[0])
    with pytest.raises(ValueError, match=r"frames\[0\] has start_s or end_s, but its frames are in memory"):
        ask({"video": array, "end_s": 1}, "what color is it")
    Image.new("RGB", (64, 48), "red").save(tmp_path / "still.png")
    with pytest.raises(ClipBertError, match=r"still\.png: is an image, which has no segments"):
        ask({"video": tmp_path / "still.png", "start_s": 1}, "what color is it")
    with pytest.raises(ValueError, match=r"frames\[0\] has the key 'start': expected video, start_s, end_s\."):
        ask({"video": videos[0], "start": 1}, "what color is it")


def count_encodings(search, monkeypatch):
    encode, encoded = search.model.encode_video, []
    monkeypatch.setattr(search.model, "encode_video", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    return encoded


def test_a_library_is_encoded_once_for_all_queries(folder, videos, monkeypatch):
    search = pipeline("retrieval", folder(ClipBertForRetrieval, projection_size=8))
    encoded = count_encodings(search, monkeypatch)
    first = search("a red circle", [*videos, {"video": videos[0], "end_s": 1}])
    assert len(encoded) == 4
    assert search("a red circle", [*map(str, videos), {"video": videos[0].read_bytes(), "end_s": 1}]) != first
    # another number of pairs in a batch changes the last digits
    again = [row["score"] for row in search("a red circle", videos)]
    assert again == pytest.approx([row["score"] for row in first if row["index"] < 3], rel=1e-5)
    search("what color", [videos[2], videos[0]])
    assert len(encoded) == 5  # the bytes have no suffix, so they may be decoded in another way
    search.forget()
    search("what color", videos[:1])
    assert len(encoded) == 6


@torch.no_grad()
def test_tokens_are_not_used_after_a_change(folder, videos, tiny_video, monkeypatch):
    search = pipeline("retrieval", folder(ClipBertForRetrieval))
    encoded = count_encodings(search, monkeypatch)
    before = search.encode(videos[:1])
    search.model.clipbert.vision.projection.weight.mul_(2)
    assert not torch.equal(search.encode(videos[:1]), before)
    search.processor.clips = 3
    assert search.encode(videos[:1]).shape[1] == 3
    search.frames = FramesParams(fps=1, size=32)
    search.encode(videos[:1])
    tiny_video(videos[0], seed=9)
    search.encode(videos[:1])
    assert len(encoded) == 5
    search.encode(videos[:1])
    search.encode([search.processor.read_video(videos[0])])
    assert len(encoded) == 6  # frames in memory are encoded each time


def test_a_search_skips_videos_that_cannot_be_read(folder, videos, tmp_path):
    search = pipeline("retrieval", folder(ClipBertForRetrieval, projection_size=8))
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 99)
    given = [tmp_path / "bad.mp4", videos[0], tmp_path / "gone.mp4", videos[1]]
    with pytest.raises(ClipBertError, match=r"bad\.mp4: cannot be decoded.*Check that it plays"):
        search("a red circle", given)
    found = search("a red circle", given, on_error="skip")
    assert [(row["index"], row["score"], row["error"]) for row in found[:2]] == [
        ([1, 3][row["index"]], row["score"], None) for row in search("a red circle", [videos[0], videos[1]])
    ]
    assert [row["index"] for row in found[2:]] == [0, 2]
    assert [row["score"] for row in found[2:]] == [None, None]
    assert "bad.mp4: cannot be decoded" in found[2]["error"]
    assert "gone.mp4': not found" in found[3]["error"]
    assert "gone.mp4" in found._repr_html_()
    with pytest.raises(ClipBertError, match=r"none of 1 videos can be read; the first: .*bad\.mp4"):
        search("a red circle", given[:1], on_error="skip")
    with pytest.raises(ValueError, match="on_error is 'ignore': expected 'raise' or 'skip'"):
        search("a red circle", given, on_error="ignore")


def test_a_batch_returns_the_error_of_an_input_in_its_place(folder, videos, tmp_path):
    ask = pipeline("open_qa", folder(ClipBertForOpenQA))
    question = "what color is it"
    inputs = [{"video": video, "question": question} for video in (videos[0], tmp_path / "gone.mp4", videos[1])]
    with pytest.raises(ClipBertError, match=r"gone\.mp4"):
        ask.batch(inputs)
    first, error, last = ask.batch([*inputs], on_error="skip", top=1)
    assert (first, last) == (ask(videos[0], question, top=1), ask(videos[1], question, top=1))
    assert isinstance(error, ClipBertError)
    assert isinstance(ask.batch([{"video": videos[0], "question": " "}], on_error="skip")[0], ValueError)
    with pytest.raises(ValueError, match=r"inputs\[0\] has the keys video, text: .*text"):
        ask.batch([{"video": videos[0], "text": question}], on_error="skip")
    with pytest.raises(ValueError, match=r"inputs\[0\] is 'a\.mp4': expected the arguments of a call by name"):
        ask.batch(["a.mp4"])
