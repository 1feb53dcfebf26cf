"""What stands in several files of the project is the same in all of them."""

import re
import tomllib

import pytest
from support.blocks import ROOT, pages

import rawmmsg

pytestmark = pytest.mark.no_network

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def value_in(file: str, pattern: str) -> str:
    """Returns what the group of the pattern matches in the file."""
    found = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert found, f"{file} has no line like {pattern}"
    return found[1]


def test_version_is_the_same_everywhere() -> None:
    versions = {
        "rawmmsg.__version__": rawmmsg.__version__,
        "pyproject.toml": PROJECT["version"],
        "CITATION.cff": value_in("CITATION.cff", r"^version: (.*)$"),
        "CHANGELOG.md": value_in("CHANGELOG.md", r"^## ([\d.]+)"),
    }
    assert len(set(versions.values())) == 1, versions


def test_license_and_repository_are_those_of_the_package() -> None:
    assert value_in("CITATION.cff", r"^license: (.*)$") == PROJECT["license"]
    repository = value_in("CITATION.cff", r"^repository-code: (.*)$")
    assert repository == PROJECT["urls"]["Source"]


def test_addresses_lead_to_files_of_the_repository() -> None:
    urls = PROJECT["urls"]
    prefix = urls["Source"] + "/"
    for name, url in urls.items():
        assert f"{url}/".startswith(prefix), name
        _, is_file, path = url.partition("/blob/main/")
        if is_file:
            assert (ROOT / path).is_file(), f"{name}: {url}"


def test_sessions_that_pages_name_exist() -> None:
    """As `nox -s NAME`; a session of several Pythons as NAME-PYTHON."""
    source = (ROOT / "noxfile.py").read_text()
    functions = re.findall(
        r"^@nox\.session\((.*)\)\n(?:@.*\n)*def (\w+)\(", source, re.MULTILINE
    )
    sessions = set()
    for arguments, function in functions:
        named = re.search(r'name="([\w-]+)"', arguments)
        sessions.add(named[1] if named else function)
    for page in pages():
        for name in re.findall(r"nox -s ([\w.-]*\w)", page.read_text()):
            session = re.sub(r"-3\.\d+t?$", "", name)
            assert session in sessions, f"{page}: {name}"
