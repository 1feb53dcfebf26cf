"""Fails if valgrind blames an extension module.

usage: valgrind_errors.py MODULE FOLDER_OF_REPORTS

The interpreter has errors of its own, and no suppression can tell them from
the module's. Only errors with a frame in the module's shared object count.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree


def complete(text: str) -> str:
    """Completes the report of a process that replaced itself by another
    program (exec)."""
    end = "</valgrindoutput>"
    if end in text:
        return text
    return text[: text.rfind("</error>") + len("</error>")] + end


def describe(error: ElementTree.Element) -> str:
    lines = [error.findtext("what") or error.findtext("xwhat/text") or ""]
    for frame in error.iter("frame"):
        where = frame.findtext("file") or frame.findtext("obj") or "?"
        line = frame.findtext("line") or ""
        lines.append(f"    {frame.findtext('fn') or '?'} ({where}:{line})")
    return "\n".join(lines)


def main(module: str, folder: str) -> int:
    ours, others = [], 0
    reports = list(Path(folder).glob("*.xml"))
    for report in reports:
        text = report.read_text()
        if "<error>" not in text:
            continue
        for error in ElementTree.fromstring(complete(text)).iter("error"):
            # Leaks are in the XML whatever --leak-check says. They include
            # what the interpreter allocates for itself when it is called.
            if (error.findtext("kind") or "").startswith("Leak_"):
                continue
            objects = [frame.findtext("obj") for frame in error.iter("frame")]
            if any(f"/{module}." in (path or "") for path in objects):
                ours.append(describe(error))
            else:
                others += 1
    print(*ours, sep="\n")
    print(
        f"valgrind: {len(reports)} processes, {len(ours)} errors in"
        f" {module}, {others} elsewhere"
    )
    return 1 if ours or not reports else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
