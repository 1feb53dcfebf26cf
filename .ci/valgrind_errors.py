"""Fails if valgrind blames an extension module.

usage: valgrind_errors.py MODULE REPORT.xml...

The interpreter has errors of its own, which no suppression can tell from
ours: only those with a frame in the module's shared object count.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree


def complete(text: str) -> str:
    """A process that replaced itself by another program (exec) left its
    report without an end."""
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


def main(module: str, *reports: str) -> int:
    ours, others = [], 0
    for report in reports:
        text = Path(report).read_text()
        if "<error>" not in text:
            continue
        for error in ElementTree.fromstring(complete(text)).iter("error"):
            # Reported in XML whatever --leak-check says; blames us for what
            # the interpreter allocates for itself on our behalf.
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
