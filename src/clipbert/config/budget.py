"""Format of `train.budget`: an amount of steps, time or energy."""

import re
from dataclasses import dataclass
from typing import Final, Literal

Quantity = Literal["steps", "s", "J"]
UNITS: Final[dict[str, tuple[Quantity, int]]] = {  # the quantity that a unit measures, and its size
    "s": ("s", 1),
    "min": ("s", 60),
    "h": ("s", 3600),
    "steps": ("steps", 1),
    "J": ("J", 1),
    "kJ": ("J", 1000),
}


@dataclass(frozen=True)
class Budget:
    """`amount` steps, seconds or joules."""

    amount: float
    unit: Quantity

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Parse a budget such as "900 s", "15 min", "2 h", "5000 steps" or "400 kJ".

        Raises:
            ValueError: the text has another form, the amount is 0, or the number of steps has a fraction.
        """
        match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text, flags=re.ASCII)
        if match is None or float(match[1]) == 0:
            raise ValueError(f"a number above 0 and one of {', '.join(UNITS)}")
        if match[2] == "steps" and "." in match[1]:
            raise ValueError("a whole number of steps")
        unit, size = UNITS[match[2]]
        return cls(float(match[1]) * size, unit)
