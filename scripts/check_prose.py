"""List phrases of the project's texts that CONTRIBUTING.md asks to avoid, with file, line and a plainer wording.

    python scripts/check_prose.py            every text file that git tracks; exit code 1 if a phrase is found
    python scripts/check_prose.py FILE ...   these files

Docs, docstrings, comments, messages and configuration files are read alike: as text whose line breaks and comment signs
count as spaces. codespell, which `make lint` runs too, finds spelling mistakes and British spellings.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {".py", ".md", ".yaml", ".yml", ".toml", ".j2", ".sh", ".ipynb", ".cff"}
LEFT_OUT = {
    Path("scripts/check_prose.py"),  # lists the phrases
    Path("tests/test_check_prose.py"),
}
COUNTED = (
    "answer|batch|caption|clip|data set|file|frame|group|item|line|loss|model|plot|process|question|row|run|stage|step|"
    "task|text|verb|video"
)
COUNTING = rf"{COUNTED}|card|folder|page|report|table|thread"

# Phrase (a regular expression whose spaces match any white space, and "~" a space) -> what to write instead.
PHRASES = {
    r"the dear part": "the expensive part",
    rf"(?:a|an|one) (?:\w+ )?(?:{COUNTING}) an? (?:{COUNTED})\b(?! of| that| in)": "one ... per ...",
    r"(?<!there~)(?:is|are|was|were) no (?!longer|more|less|such|other|different|need)\w+": "is not a ...",
    r"(?:is|are|was|were|be|been|being) told": "is reported, is printed, is passed",
    r"beside": "next to; compared with",
    r"says? of (?:itself|themselves)": "describes",
    r"go(?:es|ne|ing)? on(?! GitHub)": "resume, continue",
    r"went on": "resumed, continued",
    r"anew": "again",
    r"so many": "the number of",
    r"own words": "a quotation",
    r"nobody waits": "nothing waits",
    r"a no comes": "a rejection",
    r"mend(?:s|ed|ing)?": "fix",
    r"likeness(?:es)?": "similarity",
    r"for nothing": "without effect, discarded",
    r"is nobody's": "is not used",
    r"all the same": "nevertheless",
    r"what becomes of": "the result of",
    r"what became of": "the result of",
    r"none says": "no process reports",
    r"two towers|TwoTowers": "dual encoder",
    r"see to it": "make sure",
}


def pattern(phrase: str) -> re.Pattern[str]:
    """Return the expression for a phrase in running text, where a line break may be followed by a comment sign."""
    # An empty line ends a paragraph, and no phrase reaches across it.
    spaced = phrase.replace(" ", r"(?:[ \t]+|[ \t]*\n[ \t]*(?:#|>)?[ \t]*)").replace("~", " ")
    return re.compile(rf"(?<![\w`/.-])(?:{spaced})(?![\w-])", re.IGNORECASE)


PATTERNS = {pattern(phrase): advice for phrase, advice in PHRASES.items()}


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the words and the advice of each phrase in a text."""
    for expression, advice in PATTERNS.items():
        for match in expression.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), advice


def tracked_files() -> list[Path]:
    """Return the text files that git tracks, relative to the project."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listed.split("\0") if name]
    return [path for path in paths if path.suffix in TEXTS and path not in LEFT_OUT and (ROOT / path).is_file()]


def main(arguments: list[str]) -> int:
    """Print the findings and return the exit code."""
    count = 0
    for path in [Path(name) for name in arguments] or tracked_files():
        text = (ROOT / path).read_text(encoding="utf-8")
        for line, words, advice in sorted(findings(text)):
            print(f"{path}:{line}: {words!r}: write {advice}")
            count += 1
    if count:
        print(f"{count} phrases to rewrite; the list is in scripts/check_prose.py", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
