"""Answers of VQA (Goyal et al., CVPR 2017): normalization of the official evaluation, and soft scores."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

NUMBERS = ("none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, words in enumerate(NUMBERS) for word in words.split()}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBER_COMMA = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")

# The words whose apostrophe is put back where it was left out.
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """Return {spelling with one apostrophe left out: the word}."""
    found = {"somebody'd": "somebodyd"}  # as the official table has it
    for word in CONTRACTED.split():
        for place, letter in enumerate(word):
            if letter == "'":
                found[word[:place] + word[place + 1 :]] = word
    return found


CONTRACTIONS = _contractions()


@lru_cache(maxsize=1 << 17)
def normalise(answer: str) -> str:
    """Return an answer as the official evaluation compares it: lower case, digits, no articles, no punctuation.

    A mark next to a space is dropped, one inside a word becomes a space; the result may be empty.
    """
    text = " ".join(answer.split())
    glued = NUMBER_COMMA.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        if mark in text:
            drop = glued or f"{mark} " in text or f" {mark}" in text
            cleaned = cleaned.replace(mark, "" if drop else " ")
    words = FULL_STOP.sub("", cleaned).lower().split()
    kept = [word for word in (DIGITS.get(word, word) for word in words) if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def soft_scores(answers: Iterable[str]) -> dict[str, float]:
    """Return the soft score of each normalized answer (`vqa_score`).

    For VQA's ten annotators these are the scores on which bottom-up attention, LXMERT and ClipBERT train.
    """
    from clipbert.evaluation.metrics.answers import vqa_score  # imports pandas

    counts = Counter(map(normalise, answers))
    total = counts.total()
    counts.pop("", None)
    scores = {}
    for answer, count in counts.items():
        score = round(vqa_score(count, total), 6)
        if score > 0:
            scores[answer] = score
    return scores
