"""Scene of one video of the sample set: shapes, positions, times, background.

A scene is drawn with Python's random numbers and holds only integers and words, so that it is the same everywhere.
"""

import random
from dataclasses import dataclass

SIDE = 112  # pixels, width and height
FPS = 8
FRAMES = (24, 40)  # 3 to 5 seconds

COLORS = ("red", "yellow", "green", "cyan", "blue", "pink", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": 26, "large": 42}  # pixels across
PATTERNS = ("plain", "striped", "checkered", "dotted", "shaded", "speckled")
TONES = ("gray", "brown", "olive", "slate")

UNSEEN = frozenset((color, SHAPES[(5 * index + 2) % len(SHAPES)]) for index, color in enumerate(COLORS))
"""(color, shape) pairs that no training video shows."""

KINDS = {"quiet": 50, "appear": 12, "leave": 12, "turn": 14, "order": 12}  # weights
COUNTS = {1: 55, 2: 32, 3: 13}  # how many things, and the weights of that
LANES = {1: (28, 56, 84), 2: (28, 84), 3: (22, 56, 90)}  # centres across the axis of motion, by number of things
PLACES = {
    "x": {2: ("at the top", "at the bottom"), 3: ("at the top", "in the middle", "at the bottom")},
    "y": {2: ("on the left", "on the right"), 3: ("on the left", "in the middle", "on the right")},
}


@dataclass(frozen=True)
class Thing:
    """One shape, visible in frames first <= f < last, moving from start to end (centers, x and y)."""

    color: str
    shape: str
    size: str
    motion: str  # left, right, up, down, still
    event: str  # none, appears, leaves (over the edge), vanishes, turns (changes color)
    new_color: str | None
    start: tuple[int, int]
    end: tuple[int, int]
    first: int
    last: int
    change: int | None
    place: str  # in words; empty for a lone thing

    def center(self, frame: int) -> tuple[int, int]:
        """Return the center at a frame."""
        steps, step = max(self.last - 1 - self.first, 1), frame - self.first
        (x0, y0), (x1, y1) = self.start, self.end
        return x0 + (x1 - x0) * step // steps, y0 + (y1 - y0) * step // steps

    def color_at(self, frame: int) -> str:
        """Return the color at a frame."""
        return self.color if self.new_color is None or self.change is None or frame < self.change else self.new_color


@dataclass(frozen=True)
class Scene:
    """Content of one video."""

    kind: str
    frames: int
    axis: str  # x or y: along which everything moves
    things: tuple[Thing, ...]
    pattern: str
    tone: str
    angle: str  # of the stripes and the shading: x, y or diagonal
    drift: tuple[int, int]  # pixels a frame that the background moves
    grain: int  # seed of the speckles

    @property
    def signature(self) -> tuple[object, ...]:
        """Return everything that a caption can describe; scenes of the same signature have the same captions."""
        told = [(t.color, t.shape, t.size, t.motion, t.event, t.new_color or "", t.place) for t in self.things]
        if self.kind == "order":
            told = [told[index] for index in sorted(range(len(told)), key=lambda index: self.things[index].first)]
        return (tuple(told), self.pattern, self.tone)


def draw_scene(rng: random.Random, unseen: bool) -> Scene:
    """Draw a scene; with `unseen` it shows a (color, shape) pair of UNSEEN, otherwise none."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    count = rng.choices(list(COUNTS), list(COUNTS.values()))[0]
    if kind == "order":
        count = max(count, 2)
    frames = rng.randint(*FRAMES)
    axis = rng.choice("xy")
    colors, shapes = _looks(rng, count, unseen)
    sizes = [rng.choice(tuple(SIZES)) for _ in range(count)]
    if count == 3:
        sizes[1] = "small"  # a large one would touch its neighbours

    chosen = rng.randrange(count)
    ranks = list(range(count))
    rng.shuffle(ranks)
    things = []
    for lane in range(count):
        event = {"order": "appears", "quiet": "none"}.get(kind, kind if lane == chosen else "none")
        things.append(
            _thing(
                rng,
                color=colors[lane],
                spare=colors[count],
                shape=shapes[lane],
                size=sizes[lane],
                event=event,
                rank=ranks[lane] if kind == "order" else None,
                frames=frames,
                axis=axis,
                lane=(LANES[1][rng.randrange(3)] if count == 1 else LANES[count][lane]) + rng.randint(-1, 1),
                place="" if count == 1 else PLACES[axis][count][lane],
            )
        )
    return Scene(
        kind=kind,
        frames=frames,
        axis=axis,
        things=tuple(things),
        pattern=rng.choice(PATTERNS),
        tone=rng.choice(TONES),
        angle=rng.choice(("x", "y", "diagonal")),
        drift=rng.choice(((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))),
        grain=rng.getrandbits(32),
    )


def _looks(rng: random.Random, count: int, unseen: bool) -> tuple[list[str], list[str]]:
    """Return `count` shapes and `count + 1` different colors, the last one for a thing that changes color."""
    while True:
        colors = rng.sample(COLORS, count + 1)
        shapes = rng.sample(SHAPES, count)
        if count > 1 and rng.random() < 0.12:
            shapes[0] = shapes[1]
        if unseen:
            color, shape = rng.choice(sorted(UNSEEN))
            slot = rng.randrange(count)
            if color in colors:
                colors.remove(color)
            else:
                colors.pop()
            colors.insert(slot, color)
            shapes[slot] = shape
        pairs = [*zip(colors, shapes, strict=False), *((colors[count], shape) for shape in shapes)]
        spare = pairs[count:]
        if not UNSEEN.isdisjoint(spare) or (unseen == UNSEEN.isdisjoint(pairs[:count])):
            continue
        return colors, shapes


def _thing(
    rng: random.Random,
    *,
    color: str,
    spare: str,
    shape: str,
    size: str,
    event: str,
    rank: int | None,
    frames: int,
    axis: str,
    lane: int,
    place: str,
) -> Thing:
    motion = "still"
    if rng.random() < 0.6:
        motion = rng.choice(("left", "right") if axis == "x" else ("up", "down"))
    first, last, change, new_color = 0, frames, None, None
    if rank is not None:
        first = frames * (10 + 20 * rank + rng.randint(0, 4)) // 100
    elif event == "appear":
        event, first = "appears", frames * rng.randint(25, 40) // 100
    elif event == "leave":
        event, last = ("vanishes" if motion == "still" else "leaves"), frames * rng.randint(62, 76) // 100
    elif event == "turn":
        event, change, new_color = "turns", frames * rng.randint(42, 58) // 100, spare

    half = SIZES[size] // 2
    low, high = half + 2 + rng.randint(0, 5), SIDE - half - 2 - rng.randint(0, 5)
    if motion == "still":
        along_start = along_end = _anchor(rng, half)
    else:
        along_start, along_end = (low, high) if motion in ("right", "down") else (high, low)
        if event == "leaves":
            along_end = SIDE + half if motion in ("right", "down") else -half
    start, end = (along_start, lane), (along_end, lane)
    if axis == "y":
        start, end = (lane, along_start), (lane, along_end)
    return Thing(color, shape, size, motion, event, new_color, start, end, first, last, change, place)


def _anchor(rng: random.Random, half: int) -> int:
    """Return the position of a still thing along the axis: off center two times in three."""
    side = rng.randrange(3)
    if side == 0:
        return half + 3 + rng.randint(0, 8)
    if side == 1:
        return SIDE - half - 3 - rng.randint(0, 8)
    return SIDE // 2 + rng.randint(-5, 5)


def halves(thing: Thing) -> list[str]:
    """Return the halves of the picture (left or right, then top or bottom) in which its center stays while visible."""
    found = []
    for axis, (low, high) in enumerate((("left", "right"), ("top", "bottom"))):
        values = [thing.center(frame)[axis] for frame in (thing.first, thing.last - 1)]
        if max(values) <= SIDE // 2 - 14:
            found.append(low)
        elif min(values) >= SIDE // 2 + 14:
            found.append(high)
    return found
