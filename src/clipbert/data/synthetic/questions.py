"""Open questions about a scene of the sample set, each with one right answer."""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from clipbert.data.synthetic.scene import COLORS, PATTERNS, SHAPES, TONES, Scene, Thing, halves
from clipbert.errors import ClipBertError

NUMBERS = ("one", "two", "three", "four", "five")
PATTERN_NOUNS = dict(zip(PATTERNS, ("nothing", "stripes", "checks", "dots", "shading", "speckles"), strict=True))
DIRECTIONS = ("left", "right", "up", "down")


@dataclass(frozen=True)
class Question:
    """Question, its answer, and the answers that fit the question, right and wrong."""

    kind: str
    text: str
    answer: str
    options: tuple[str, ...]


Kinds = dict[str, tuple[int, Callable[[random.Random, Scene], list[Question]]]]


def open_questions(rng: random.Random, scene: Scene, number: int) -> list[Question]:
    """Return up to `number` questions of different kinds."""
    return draw_questions(rng, scene, number, OPEN_KINDS)


def every_question(rng: random.Random, scene: Scene, kinds: Collection[str]) -> list[Question]:
    """Return every question of some kinds of OPEN_KINDS that the scene can answer, each text once.

    Raises:
        ClipBertError: a kind is unknown.
    """
    for kind in kinds:
        if kind not in OPEN_KINDS:
            raise ClipBertError(f"questions: {kind!r}: expected some of {', '.join(OPEN_KINDS)}")
    found = (question for kind in kinds for question in OPEN_KINDS[kind][1](rng, scene))
    return list({question.text: question for question in found}.values())


def draw_questions(rng: random.Random, scene: Scene, number: int, kinds: Kinds) -> list[Question]:
    """Draw kinds by weight without repetition, and ask one question of each that the scene can answer."""
    left = dict(kinds)
    found: list[Question] = []
    while left and len(found) < number:
        kind = rng.choices(list(left), [weight for weight, _ in left.values()])[0]
        questions = left.pop(kind)[1](rng, scene)
        if questions:
            found.append(rng.choice(questions))
    return found


def refer(
    rng: random.Random, scene: Scene, thing: Thing, *, color: bool = True, shape: bool = True, place: bool = True
) -> str | None:
    """Return words that identify this thing, without color, shape or place if requested; None if there are none."""
    others = [other for other in scene.things if other is not thing]
    color = color and thing.event != "turns"
    names = []
    if not others:
        names.append("the object")
    if color:
        names += [f"the {thing.color} object"] * 2
    if shape and all(other.shape != thing.shape for other in others):
        names += [f"the {thing.shape}"] * 2
    if color and shape:
        names += [f"the {thing.color} {thing.shape}"] * 2
    if others and all(other.size != thing.size for other in others):
        names.append(f"the {thing.size} object")
    if place and others and thing.place:
        names.append(f"the object {thing.place}")
    return rng.choice(names) if names else None


def ask_color(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        words = refer(rng, scene, thing, color=False)
        if words and thing.event != "turns":
            found.append(Question("color", f"What color is {words}?", thing.color, COLORS))
    return found


def ask_shape(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        words = refer(rng, scene, thing, shape=False)
        if words:
            found.append(Question("shape", f"What shape is {words}?", thing.shape, SHAPES))
    return found


def ask_background(rng: random.Random, scene: Scene) -> list[Question]:
    pattern = rng.choice(("What is on the background?", "Which pattern does the background have?"))
    tone = rng.choice(("What color is the background?", "Which color does the background have?"))
    return [
        Question("background", pattern, PATTERN_NOUNS[scene.pattern], tuple(PATTERN_NOUNS.values())),
        Question("background", tone, scene.tone, TONES),
    ]


def ask_count(rng: random.Random, scene: Scene) -> list[Question]:
    if scene.kind not in ("quiet", "turn") or (len(scene.things) == 2 and rng.random() < 0.55):
        return []
    text = rng.choice(("How many objects are there?", "How many shapes can be seen?"))
    return [Question("count", text, NUMBERS[len(scene.things) - 1], NUMBERS)]


def _size(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        words = rng.choice((f"the {thing.color} object", f"the {thing.color} {thing.shape}"))
        if thing.event != "turns" and thing.place != "in the middle":
            found.append(Question("size", f"Is {words} small or large?", thing.size, ("small", "large")))
    return found


def _position(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        words = rng.choice((f"the {thing.color} object", f"the {thing.color} {thing.shape}"))
        if thing.event == "turns":
            continue
        for half in halves(thing):
            pair = ("left", "right") if half in ("left", "right") else ("top", "bottom")
            text = f"Is {words} in the {pair[0]} or the {pair[1]} half?"
            found.append(Question("position", text, half, pair))
    return found


def _direction(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        words = refer(rng, scene, thing)
        if words and thing.motion != "still":
            text = rng.choice((f"Which way does {words} move?", f"In which direction does {words} move?"))
            found.append(Question("direction", text, thing.motion, (*DIRECTIONS, "it does not move")))
    return found


def _change(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        if thing.new_color is not None and thing.event == "turns":
            words = rng.choice((f"the {thing.color} object", f"the {thing.color} {thing.shape}"))
            text = rng.choice((f"What color does {words} become?", f"Which color does {words} turn?"))
            found.append(Question("change", text, thing.new_color, tuple(c for c in COLORS if c != thing.color)))
    return found


def _order(rng: random.Random, scene: Scene) -> list[Question]:
    if scene.kind != "order":
        return []
    things = sorted(scene.things, key=lambda thing: thing.first)
    found = []
    for thing, when in ((things[0], "first"), (things[-1], "last")):
        found.append(Question("order", f"What color is the object that appears {when}?", thing.color, COLORS))
        found.append(Question("order", f"What shape is the object that appears {when}?", thing.shape, SHAPES))
    return found


OPEN_KINDS: Kinds = {
    "color": (40, ask_color),
    "shape": (22, ask_shape),
    "background": (30, ask_background),
    "count": (24, ask_count),
    "size": (6, _size),
    "position": (7, _position),
    "direction": (8, _direction),
    "change": (45, _change),
    "order": (60, _order),
}

STILL_KINDS: Kinds = {
    "color": (40, ask_color),
    "shape": (30, ask_shape),
    "background": (30, ask_background),
    "count": (30, ask_count),
    "size": (12, _size),
    "position": (16, _position),
}
"""What can be asked about a single picture."""
