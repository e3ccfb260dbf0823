"""Multiple-choice questions about a scene of the sample set: four or five options, one of them right."""

import random

from clipbert.data.synthetic.questions import (
    Kinds,
    Question,
    ask_background,
    ask_color,
    ask_count,
    ask_shape,
    draw_questions,
    refer,
)
from clipbert.data.synthetic.scene import COLORS, SHAPES, Scene, Thing, halves

CORNERS = tuple(f"at the {y} {x}" for y in ("top", "bottom") for x in ("left", "right"))
MOTIONS = {**{way: f"it moves {way}" for way in ("left", "right", "up", "down")}, "still": "it stays still"}


def choice_question(rng: random.Random, scene: Scene) -> tuple[Question, list[str]]:
    """Return one question and its options in random order."""
    question = draw_questions(rng, scene, 1, CHOICE_KINDS)[0]
    return question, _options(rng, question)


def more_choice_questions(
    rng: random.Random, scene: Scene, number: int, asked: Question
) -> list[tuple[Question, list[str]]]:
    """Return up to `number` questions of kinds other than `asked`, each with its options in random order."""
    kinds = {name: kind for name, kind in CHOICE_KINDS.items() if name != asked.kind}
    return [(question, _options(rng, question)) for question in draw_questions(rng, scene, number, kinds)]


def _options(rng: random.Random, question: Question) -> list[str]:
    wrong = [option for option in question.options if option != question.answer]
    options = [question.answer, *rng.sample(wrong, min(len(wrong), rng.choice((3, 4))))]
    rng.shuffle(options)
    return options


def _label(thing: Thing) -> str:
    return f"the {thing.color} {thing.shape}"


def _labels(rng: random.Random, scene: Scene) -> tuple[str, ...]:
    """Return the things of the scene and some that are absent, at least five."""
    shown = {thing.color for thing in scene.things} | {thing.new_color for thing in scene.things}
    absent = [f"the {color} {rng.choice(SHAPES)}" for color in COLORS if color not in shown]
    return (*map(_label, scene.things), *rng.sample(absent, 4))


def _size(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for size in ("small", "large"):
        fitting = [thing for thing in scene.things if thing.size == size]
        if len(fitting) == 1 and len(scene.things) > 1:
            found.append(Question("size", f"Which object is {size}?", _label(fitting[0]), _labels(rng, scene)))
    return found


def _position(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        words, where = refer(rng, scene, thing, place=False), halves(thing)
        if words and len(where) == 2:
            found.append(Question("position", f"Where is {words}?", f"at the {where[1]} {where[0]}", CORNERS))
    return found


def _direction(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        words = refer(rng, scene, thing)
        if words and not (thing.motion == "still" and rng.random() < 0.6):
            text = rng.choice((f"How does {words} move?", f"What is the motion of {words}?"))
            found.append(Question("direction", text, MOTIONS[thing.motion], tuple(MOTIONS.values())))
    return found


def _change(rng: random.Random, scene: Scene) -> list[Question]:
    found = []
    for thing in scene.things:
        others = rng.sample([color for color in COLORS if color not in (thing.color, thing.new_color)], 2)
        happens = {
            "turns": f"it turns {thing.new_color or others[1]}",
            "appears": "it appears late",
            "vanishes": "it goes away",
            "leaves": "it goes away",
            "none": "nothing, it stays as it is",
        }
        if scene.kind in ("quiet", "order") or (thing.event == "none" and rng.random() < 0.6):
            continue
        options = (*dict.fromkeys(happens.values()), f"it turns {others[0]}")
        found.append(Question("change", f"What happens to {_label(thing)}?", happens[thing.event], options))
    return found


def _order(rng: random.Random, scene: Scene) -> list[Question]:
    if scene.kind != "order":
        return []
    things = sorted(scene.things, key=lambda thing: thing.first)
    return [
        Question("order", f"Which object appears {when}?", _label(thing), _labels(rng, scene))
        for thing, when in ((things[0], "first"), (things[-1], "last"))
    ]


CHOICE_KINDS: Kinds = {
    "color": (4, ask_color),
    "shape": (4, ask_shape),
    "background": (3, ask_background),
    "count": (3, ask_count),
    "size": (3, _size),
    "position": (4, _position),
    "direction": (6, _direction),
    "change": (10, _change),
    "order": (12, _order),
}
