"""docs/reference/filter-language.md names the whole language."""

import re
from pathlib import Path

import pytest
from support.blocks import ROOT

from rawmmsg import bpf
from rawmmsg.bpf.compiler import _LAYERS
from rawmmsg.bpf.syntax import keywords

pytestmark = pytest.mark.no_network

PAGE = (ROOT / "docs/reference/filter-language.md").read_text(encoding="utf-8")
# Names that are looked up in a file, which can be missing (Debian: netbase).
LOOKED_UP = {
    "port domain": Path("/etc/services"),
    r"ip proto \icmp": Path("/etc/protocols"),
}
# What the page says of series of words.
SERIES = {"addr2", "addr3", "address2", "address3"}


def test_every_keyword_is_on_the_page() -> None:
    in_code = " ".join(re.findall(r"`([^`\n]+)`", PAGE))
    words = set(re.findall(r"[\w-]+", in_code))
    assert keywords.KEYWORDS - words - SERIES == set()


def test_every_link_type_is_on_the_page() -> None:
    table = PAGE[PAGE.index("## Link types") : PAGE.index("## VLAN tags")]
    rows = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    listed = {int(number) for row in rows for number in row.split(",")}
    assert listed == _LAYERS.keys()


@pytest.mark.parametrize(
    "row",
    re.findall(
        r"^\| (.*?) \|",
        PAGE[PAGE.index("| Primitive |") : PAGE.index("Addresses and ports")],
        re.MULTILINE,
    )[2:],
)
def test_every_primitive_of_the_table_is_compiled(row: str) -> None:
    for expression in re.findall(r"`([^`]+)`", row):
        file = LOOKED_UP.get(expression)
        if file is None or file.exists():
            assert bpf.compile(expression, netmask=0xFFFFFF00)
        else:
            with pytest.raises(bpf.FilterError, match="is not a valid p"):
                bpf.compile(expression)
