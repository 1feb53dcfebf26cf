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
        for block in blocks():
            if block.language != "python":
                continue
            # A folder for each block, since two may have files of one name.
            place = Path(folder, re.sub(r"\W", "_", str(block)))
            place.mkdir()
            for name, text in block.files().items():
                path = place / name
                path.write_text(text, encoding="utf-8")
                names.append(str(path.relative_to(folder)))
        command = [sys.executable, "-m", "mypy", "--strict"]
        command += ["--namespace-packages", "--explicit-package-bases"]
        # mypy does not find a package that is installed as editable.
        found = os.environ | {"MYPYPATH": str(ROOT)}
        return subprocess.run(
            [*command, *names], cwd=folder, env=found
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
