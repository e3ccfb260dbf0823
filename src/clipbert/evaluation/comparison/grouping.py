"""Groups of trainings that differ in the seed only."""

from collections.abc import Sequence
from dataclasses import dataclass

from clipbert.errors import ClipBertError
from clipbert.evaluation.comparison.source import SEED, Source, differing_settings

# Records of a training's data and code; groups may differ in the others, such as the device.
IDENTITY = ("data",)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a model, or several trainings that differ in the seed."""

    name: str
    sources: tuple[Source, ...]

    @property
    def seeds(self) -> list[str]:
        """The seed of each training."""
        return [source.params.get(SEED, "not recorded") for source in self.sources]


def group_by_seed(sources: Sequence[Source]) -> list[Side]:
    """Group trainings by their parameters without the seed; the group of the first source is first.

    Raises:
        ClipBertError: a training has no recorded seed, a seed occurs twice in a group, a group has one training, or all
            are in one group.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Source]] = {}
    for source in sources:
        if SEED not in source.params:
            raise ClipBertError(
                f"{source.name} ({source.place}): its parameters do not contain the seed, so it cannot be grouped. "
                "Train and evaluate it with this version of clipbert, or leave it out."
            )
        settings = {name: value for name, value in source.settings.items() if name != SEED}
        settings |= {name: source.origin[name] for name in IDENTITY if name in source.origin}
        groups.setdefault(tuple(sorted(settings.items())), []).append(source)
    for some in groups.values():
        seen: dict[str, Source] = {}
        for source in some:
            if (other := seen.setdefault(source.params[SEED], source)) is not source:
                raise ClipBertError(
                    f"{other.name} and {source.name} have the same parameters and the same seed "
                    f"({source.params[SEED]}): they are one training. Leave one out."
                )
    listed = "\n".join(f"  {_names(some)}" for some in groups.values())
    if len(groups) == 1:
        raise ClipBertError(
            f"All {len(sources)} trainings differ in the seed only, so there is one group and nothing to compare it "
            f"with:\n{listed}\nName trainings of at least two settings."
        )
    if alone := [some[0] for some in groups.values() if len(some) == 1]:
        raise ClipBertError(
            f"{alone[0].name} has the only seed ({alone[0].params[SEED]}) of its parameters, and one seed says nothing "
            f"about the noise of seeds. The groups are:\n{listed}\n{_closest(alone[0], sources)}Train it with another "
            f"seed, as `dvc exp run -S seed=1 evaluate@{alone[0].task}`, or compare without --group-by."
        )
    names = _group_names(list(groups.values()))
    return [Side(name, tuple(some)) for name, some in zip(names, groups.values(), strict=True)]


def _group_names(groups: list[list[Source]]) -> list[str]:
    """Return a name for each group: the settings in which they differ, or the name of its first training."""
    firsts = [some[0] for some in groups]
    differing = differing_settings(firsts, ignored=(SEED,))
    named = [name for name in differing if all(name in source.params for source in firsts)]
    if 1 <= len(named) <= 2:
        return [
            ", ".join(f"{name}={differing[name][number]}" for name in named) + f" ({len(some)} seeds)"
            for number, some in enumerate(groups)
        ]
    return [f"{some[0].name} ({len(some)} seeds)" for some in groups]


def _closest(source: Source, others: Sequence[Source]) -> str:
    """Return in which parameters a training differs from the most similar other one."""
    tables = [differing_settings([source, other], ignored=(SEED,)) for other in others if other is not source]
    fewest = min(tables, key=len)
    names = list(fewest)
    if not names:
        return ""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"From the most similar other training it differs in {', '.join(names[:4])}{more}. "


def _names(sources: list[Source]) -> str:
    return ", ".join(f"{source.name} (seed {source.params[SEED]})" for source in sources)
