"""Use an ONNX export without torch and without clipbert.

    pip install av numpy onnxruntime pillow tokenizers
    python example.py VIDEO                                   # captioning
    python example.py VIDEO "what color is the circle?"       # question answering
    python example.py VIDEO "which way?" "left" "right"       # multiple choice: a question and its options
    python example.py VIDEO "a red circle" "a blue square"    # retrieval and pretraining: texts to compare

Run it in the folder of the export; it prints JSON, best first. `Model` is short enough to be copied into a program.
It decodes a video from its start, so it is slower on long files than clipbert, and does not skip damage in a file.
"""

import json
import math
import sys
import unicodedata
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class Model:
    """The sessions of an export and what it says about frames, texts and scores."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.settings: dict[str, Any] = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        if "dual_tokenizer" in self.settings:
            raise SystemExit("This model has a second tokenizer; see export.json for what its inputs are.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {
            name: onnxruntime.InferenceSession(folder / part["file"], options, providers=["CPUExecutionProvider"])
            for name, part in self.settings["parts"].items()
        }
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.settings["max_text_length"])

    def run(self, part: str, **inputs: Any) -> dict[str, Any]:
        """Return the outputs of a part by name."""
        names = list(self.settings["parts"][part]["outputs"])
        return dict(zip(names, self.sessions[part].run(names, inputs), strict=True))

    def pixels(self, video: str) -> Any:
        """Return the frames (1, K, T, 3, S, S) uint8 of the uniform clips of a video or an image."""
        settings = self.settings
        frames = read_frames(video, **settings["frames"])
        clips, length = settings["clips"], settings["frames_per_clip"]
        starts = ((2 * np.arange(clips) + 1) * len(frames) - clips * length) // (2 * clips)
        starts = np.clip(starts, 0, max(len(frames) - length, 0))
        steps = np.arange(length)
        if len(frames) < length:
            steps = steps * len(frames) // length
        size, how = settings["image_size"], settings["resize"]
        squares = np.stack([square(frames[index], size, how) for index in (starts[:, None] + steps).ravel()])
        return squares.transpose(0, 3, 1, 2).reshape(1, clips, length, 3, size, size)

    def tokens(self, texts: list[str]) -> tuple[Any, Any]:
        """Return token ids and their mask, each (N, L) int64."""
        words = [unicodedata.normalize("NFC", " ".join(text.split())) for text in texts]
        found = [encoding.ids for encoding in self.tokenizer.encode_batch(words)]
        multiple = self.settings["pad_to_multiple_of"]
        width = -(-max(map(len, found)) // multiple) * multiple
        ids = np.full((len(found), width), self.settings["tokens"]["pad"], dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, each in enumerate(found):
            ids[row, : len(each)], mask[row, : len(each)] = each, 1
        return ids, mask

    def logits(self, seen: dict[str, Any], ids: Any, mask: Any) -> Any:
        """Return the only output of the cross-encoder for texts of one video."""
        embeds = np.repeat(seen["visual_embeds"], len(ids), axis=0)
        (found,) = self.run("cross_encoder", visual_embeds=embeds, input_ids=ids, attention_mask=mask).values()
        return found

    def answer(self, video: str, question: str, top: int = 5) -> list[dict[str, Any]]:
        """Return the most probable answers to a question."""
        (logits,) = self.logits(self.run("vision_encoder", pixel_values=self.pixels(video)), *self.tokens([question]))
        scores = 1 / (1 + np.exp(-logits)) if self.settings["answer_loss"] == "bce" else softmax(logits)
        return [{"answer": self.settings["answers"][i], "score": float(scores[i])} for i in np.argsort(-scores)[:top]]

    def choose(self, video: str, question: str, options: list[str]) -> list[dict[str, Any]]:
        """Return the options of a question, most probable first."""
        texts = [f"{question} {option}" for option in options]
        scores = softmax(self.logits(self.run("vision_encoder", pixel_values=self.pixels(video)), *self.tokens(texts)))
        return [{"answer": options[i], "score": float(scores[i])} for i in np.argsort(-scores)]

    def match(self, video: str, texts: list[str]) -> list[dict[str, Any]]:
        """Return texts by how well they describe a video: similarity plus log odds, or the probability of a match."""
        ids, mask = self.tokens(texts)
        seen = self.run("vision_encoder", pixel_values=self.pixels(video))
        scores = np.zeros(len(texts))
        if "cross_encoder" in self.sessions:
            scores = scores + self.logits(seen, ids, mask)
        if self.settings["task"] == "pretrain":
            scores = 1 / (1 + np.exp(-scores))
        elif "text_encoder" in self.sessions:
            vectors = self.run("text_encoder", input_ids=ids, attention_mask=mask)["text_features"]
            comparison = self.settings["similarity"]
            scores = scores + comparison["scale"] * (vectors @ seen["video_features"][0]) + comparison["bias"]
        return [{"text": texts[i], "score": float(scores[i])} for i in np.argsort(-scores)]

    def caption(self, video: str) -> list[dict[str, Any]]:
        """Return a caption by greedy search; clipbert itself uses the beams of `generation` in export.json."""
        seen = self.run("vision_encoder", pixel_values=self.pixels(video))["visual_embeds"]
        tokens, total = self.settings["tokens"], 0.0
        ids = [tokens["start"]]
        for _ in range(self.settings["generation"]["max_length"]):
            row = np.array([ids], dtype=np.int64)
            (found,) = self.run("text_decoder", visual_embeds=seen, input_ids=row)["next_token_log_probs"]
            found[[tokens["pad"], tokens["start"]]] = -np.inf
            ids.append(int(found.argmax()))
            total += float(found[ids[-1]])
            if ids[-1] == tokens["end"]:
                break
        return [{"caption": self.tokenizer.decode(ids[1:]), "score": total}]


def read_frames(path: str, fps: float, size: int, max_frames: int, sampling: str) -> list[Any]:
    """Return the candidate frames of a file, each (h, w, 3) uint8 RGB with a short side of `size` at most.

    They are those on screen at (i + 1/2) / fps.
    """
    if sampling != "uniform":
        raise SystemExit(f"frames.sampling is {sampling}: this example samples frames uniformly.")
    if path.lower().endswith((".bmp", ".jpeg", ".jpg", ".png", ".webp")):
        with Image.open(path) as picture:
            return [shrink(np.asarray(ImageOps.exif_transpose(picture).convert("RGB")), size)]
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        shown = [(float(frame.time or 0), frame) for frame in container.decode(stream)]
        shown.sort(key=lambda each: each[0])
        starts = np.array([time for time, _ in shown]) - shown[0][0]
        last = shown[-1][1].duration
        step = float(last * stream.time_base) if last else float(np.median(np.diff(starts))) if len(shown) > 1 else 1.0
        duration = float(starts[-1]) + step
        count = max(1, math.ceil(duration * fps - 0.5))
        spacing = 1 / fps
        if count > max_frames or spacing / 2 > duration:
            count = min(count, max_frames)
            spacing = duration / count
        times = (np.arange(count) + 0.5) * spacing
        chosen = np.maximum(np.searchsorted(starts, times + 1e-3, side="right") - 1, 0)
        return [shrink(shown[index][1].to_ndarray(format="rgb24"), size) for index in chosen]


def shrink(image: Any, size: int) -> Any:
    """Return an image whose short side is at most `size` pixels."""
    height, width = image.shape[:2]
    scale = min(size, min(width, height)) / min(width, height)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    if target == (width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BILINEAR, reducing_gap=3))


def square(image: Any, side: int, how: str) -> Any:
    """Return an image as (side, side, 3): padded at the right and the bottom, its center, or stretched."""
    picture = Image.fromarray(image)
    width, height = picture.size
    if how == "pad":
        scale = side / max(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        resized = picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)
        padded = np.zeros((side, side, 3), dtype=np.uint8)
        padded[: size[1], : size[0]] = np.asarray(resized)
        return padded
    if how == "crop":
        scale = side / min(width, height)
        size = max(side, int(width * scale)), max(side, int(height * scale))
        picture = picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        return np.asarray(picture.crop((left, top, left + side, top + side)))
    stretched = picture if picture.size == (side, side) else picture.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(stretched)


def softmax(logits: Any) -> Any:
    """Return the probabilities of logits (N,)."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def main(words: list[str]) -> list[dict[str, Any]]:
    """Answer the words of the command line."""
    if not words:
        raise SystemExit(__doc__)
    model = Model(Path(__file__).parent)
    video, texts = words[0], words[1:]
    task = model.settings["task"]
    if task == "captioning":
        return model.caption(video)
    if not texts:
        raise SystemExit("Give a question or texts after the video.")
    if task in ("open_qa", "image_qa"):
        return model.answer(video, texts[0])
    return model.choose(video, texts[0], texts[1:]) if task == "multiple_choice" else model.match(video, texts)


if __name__ == "__main__":
    try:
        print(json.dumps(main(sys.argv[1:]), indent=2))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise SystemExit(f"{sys.argv[1]}: cannot be decoded: {error}") from error
