"""Captions of a scene of the sample set."""

import random

from clipbert.data.synthetic.scene import Scene, Thing

SYNONYMS = {
    "small": ("small", "small", "small", "little"),
    "large": ("large", "large", "large", "big"),
    "moves": ("moves", "moves", "moves", "travels", "slides"),
    "stays still": ("stays still", "stays still", "rests", "does not move"),
    "appears": ("appears", "appears", "shows up"),
    "vanishes": ("vanishes", "vanishes", "disappears"),
    "turns": ("turns", "turns", "becomes"),
}
BACKGROUNDS = ("background", "background", "backdrop")


def detailed_caption(rng: random.Random, scene: Scene) -> str:
    """Return a complete caption: size, color, shape, place, motion and event of each thing, and the background."""
    things = _in_order(rng, scene)
    words = [_clause(rng, thing) for thing in things]
    background = _background(rng, scene)
    told = _chain(words) if scene.kind != "order" else ", then ".join(words)
    style = rng.randrange(4)
    if style == 0:
        return f"Over {background}, {told}."
    if style == 1:
        return _capital(f"{background}. {_capital(told)}.")
    if style == 2:
        return _capital(f"{told}, in front of {background}.")
    return _capital(f"{told} over {background}.")


def short_caption(rng: random.Random, scene: Scene) -> str:
    """Return the colors and shapes, and some of the rest."""
    sizes, motion, places, background = (rng.random() < chance for chance in (0.65, 0.5, 0.4, 0.65))
    parts = [_clause(rng, thing, sizes, motion, places) for thing in _in_order(rng, scene)]
    told = _chain(parts)
    if not motion:
        told = rng.choice(("{}", "there is {}", "a video of {}", "we see {}")).format(told)
    if background:
        told += f" over {_background(rng, scene)}"
    return _capital(f"{told}.")


def picture_caption(rng: random.Random, scene: Scene, detailed: bool) -> str:
    """Return a caption of a still picture: its things and the background; some of that if not `detailed`."""
    sizes, places, background = (detailed or rng.random() < 0.6 for _ in range(3))
    told = _chain([_clause(rng, thing, sizes, False, places) for thing in _in_order(rng, scene)])
    if rng.random() < 0.5:
        told = rng.choice(("there is {}", "a picture of {}", "an image that shows {}", "we see {}")).format(told)
    if background:
        told += f" {rng.choice(('over', 'on', 'in front of'))} {_background(rng, scene)}"
    return _capital(f"{told}.")


def _background(rng: random.Random, scene: Scene) -> str:
    return f"{'an' if scene.tone == 'olive' else 'a'} {scene.tone} {scene.pattern} {rng.choice(BACKGROUNDS)}"


def _in_order(rng: random.Random, scene: Scene) -> list[Thing]:
    things = list(scene.things)
    if scene.kind == "order":
        return sorted(things, key=lambda thing: thing.first)
    rng.shuffle(things)
    return things


def _clause(rng: random.Random, thing: Thing, size: bool = True, motion: bool = True, place: bool = True) -> str:
    where = f" {thing.place}" if place and thing.place else ""
    verbs = f" {_verbs(rng, thing)}" if motion else ""
    if thing.event == "leaves" or rng.random() < 0.5:
        return _name(rng, thing, size) + where + verbs
    return _name(rng, thing, size) + verbs + where


def _name(rng: random.Random, thing: Thing, size: bool) -> str:
    size_word = rng.choice(SYNONYMS[thing.size]) + " " if size else ""
    return f"a {size_word}{thing.color} {thing.shape}"


def _verbs(rng: random.Random, thing: Thing) -> str:
    verb = {key: rng.choice(words) for key, words in SYNONYMS.items()}
    going = verb["stays still"] if thing.motion == "still" else f"{verb['moves']} {thing.motion}"
    if thing.event == "appears":
        return f"{verb['appears']} and {going}"
    if thing.event == "vanishes":
        return f"{going} and then {verb['vanishes']}"
    if thing.event == "leaves":
        return f"{going} and leaves"
    if thing.event == "turns":
        return f"{going} and {verb['turns']} {thing.new_color}"
    return going


def _chain(parts: list[str]) -> str:
    if len(parts) < 3:
        return " and ".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
