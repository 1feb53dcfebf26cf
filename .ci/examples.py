"""Checks the Python blocks of README.md, CONTRIBUTING.md and docs/ as a user's
own files: ``python .ci/examples.py`` runs ``mypy --strict`` on them.

Line numbers in mypy's messages are those of the page. Needs mypy and what the
blocks import (the extra `test`).
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.blocks import ROOT, blocks


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        names: list[str] = []
        # mypy does not find a package that is installed as editable.
        bases = {str(ROOT)}
        for block in blocks():
            if block.language != "python":
                continue
            # A folder for each block, since two may have files of one name;
            # but one for the files that a page builds up, which may import
            # each other.
            own_name = len(block.files()) == 1 and block.file_name
            key = block.page if own_name else str(block)
            place = Path(folder, re.sub(r"\W", "_", key))
            place.mkdir(exist_ok=True)
            if own_name:
                bases.add(str(place))
            for name, text in block.files().items():
                path = place / name
                path.write_text(text, encoding="utf-8")
                names.append(str(path.relative_to(folder)))
        command = [sys.executable, "-m", "mypy", "--strict"]
        command += ["--namespace-packages", "--explicit-package-bases"]
        found = os.environ | {"MYPYPATH": ":".join(sorted(bases))}
        return subprocess.run(
            [*command, *names], cwd=folder, env=found
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
