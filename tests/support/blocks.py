"""The blocks of code in README.md, CONTRIBUTING.md, examples/ and docs/.

A comment on the line before a block says how the block is tested:

    <!-- test: feed -->        frames arrive on eth0 while it runs
    <!-- test: interrupt -->   it runs until it gets SIGINT (Ctrl-C)
    <!-- test: netns -->       eth0 is in another network namespace, `lab`
    <!-- test: figures -->     numbers with a decimal point or a comma, and the
                               spaces of columns, are others in every run
    <!-- not run: REASON -->   it cannot run here

Several words for `test` are separated by commas. A block without a comment
runs to its end. The languages are

    python    a program, or, with the line "# conftest.py", a pytest suite
    sh        commands for a shell
    console   commands after "$ " (and "> ", after a backslash), each followed
              by what it prints
    text      not code

A Python block whose first line is "# NAME.py" is also a file of this name for
the commands that follow on the page. In what a command prints, "..." stands
for anything in a line, or, alone in a line, for any lines. "^C" alone in a
line is Ctrl-C, pressed as soon as the command has printed the lines before.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

_BLOCK: Final = re.compile(
    r"(?:^<!-- (?P<key>[a-z ]+): (?P<value>.*) -->\n)?"
    r"^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)^```$",
    re.MULTILINE,
)

# A number with a point or a comma, in a regular expression.
_FIGURE: Final = r"\d[\d,]*\\\.\d+|\d+(?:,\d{3})+"


@dataclass(frozen=True)
class Block:
    """One block; `line` is the number of its first line."""

    page: str
    line: int
    language: str
    text: str
    marks: frozenset[str] = frozenset()
    not_run: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def files(self) -> dict[str, str]:
        """The files of a Python block, by name.

        Blank lines before the code make its line numbers those of the page.
        """
        if "# conftest.py\n" not in self.text:
            stem = re.sub(r"\W", "_", self.page.removesuffix(".md"))
            name = self.file_name or f"{stem}_{self.line}.py"
            return {name: self._moved(0)}
        parts = re.finditer(
            r"^# (\w+\.py)\n((?:(?!# \w+\.py\n).*\n)*)",
            self.text,
            re.MULTILINE,
        )
        return {
            part[1]: self._moved(part.start(2), part.end(2)) for part in parts
        }

    @property
    def file_name(self) -> str | None:
        """The name that a Python block gives itself, for commands."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if self.language == "python" and named else None

    def _moved(self, start: int, end: int | None = None) -> str:
        before = self.line - 1 + self.text.count("\n", 0, start)
        return "\n" * before + self.text[start:end]


def pages() -> list[Path]:
    """The files whose blocks are tested."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "examples" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def blocks() -> Iterator[Block]:
    """Every block of every page."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            key, value = found["key"], found["value"]
            if key not in (None, "test", "not run"):
                raise ValueError(f"{page}: unknown comment {key!r}")
            yield Block(
                page=str(page.relative_to(ROOT)),
                line=text.count("\n", 0, found.start("text")) + 1,
                language=found["language"],
                text=found["text"],
                marks=frozenset(value.split(", "))
                if key == "test"
                else frozenset(),
                not_run=value if key == "not run" else None,
            )


def pattern(output: str, has_figures: bool = False) -> str:
    """The regular expression for output in which "..." stands for the rest.
    `has_figures`: it has numbers that are others in every run."""
    any_lines = re.sub(r"^\.\.\.\n", "\0", output, flags=re.MULTILINE)
    escaped = re.escape(any_lines).replace(re.escape("..."), ".*")
    wanted = escaped.replace(re.escape("\0"), "(?:.*\\n)*")
    if has_figures:
        wanted = re.sub(_FIGURE, r"[\\d,.]+", wanted)
        wanted = re.sub(r"(\\ ){2,}", " +", wanted)
    return wanted
