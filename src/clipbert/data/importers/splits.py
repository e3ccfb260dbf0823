"""Splits by a hash of names: the same on every machine, and stable when files are added."""

import hashlib
from collections.abc import Mapping, Sequence

from clipbert.data.annotations import SPLITS
from clipbert.errors import ClipBertError

HoldOut = Mapping[str, float]


def hashed_split(purpose: str, name: str, fractions: HoldOut) -> str:
    """Return the split of a media name: each split in `fractions` gets its fraction of all names, train the rest.

    Args:
        purpose: name of the draw; draws with different names are independent.
    """
    digest = hashlib.blake2b(f"{purpose}:{name}".encode("utf-8", "backslashreplace"), digest_size=8).digest()
    point = int.from_bytes(digest) / 2**64
    for split, share in fractions.items():
        if point < share:
            return split
        point -= share
    return "train"


def read_fractions(given: Sequence[str], option: str, allowed: Sequence[str] = SPLITS[1:]) -> dict[str, float]:
    """Return {"val": 0.05} for ["val=0.05"].

    Raises:
        ClipBertError: an entry is not SPLIT=FRACTION, or the fractions are out of range.
    """
    fractions: dict[str, float] = {}
    for text in given:
        split, _, share = text.partition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if split not in allowed or split in fractions or not 0 < value < 1:
            raise ClipBertError(
                f"{option} {text}: expected SPLIT=FRACTION with SPLIT one of {', '.join(allowed)}, each once, and "
                f"FRACTION between 0 and 1, as {allowed[0]}=0.1."
            )
        fractions[split] = value
    if sum(fractions.values()) > 1 + 1e-9:
        raise ClipBertError(f"{option}: the fractions add up to {sum(fractions.values()):g}; expected at most 1.")
    return fractions
