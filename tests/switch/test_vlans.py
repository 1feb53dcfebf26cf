"""Which VLAN a frame is in, and the tag with which it leaves."""

import pytest

from rawmmsg.bridge.switching.vlans import (
    LEFT_OUT,
    NO_TAG,
    UNCHANGED,
    WITHOUT_TAG,
    Vlans,
)

DEFAULT = Vlans()
ACCESS = Vlans.access(5)
TRUNK = Vlans(7, frozenset({5, 6}))
WITHOUT_NATIVE = Vlans(None, frozenset({5, 6}))


@pytest.mark.parametrize(
    ("vlans", "tag", "vlan"),
    [
        (DEFAULT, NO_TAG, 1),
        (DEFAULT, 0, 1),
        (DEFAULT, 1, 1),
        (DEFAULT, 4094, 4094),
        (DEFAULT, 4095, None),
        (ACCESS, NO_TAG, 5),
        (ACCESS, 0, 5),
        (ACCESS, 5, 5),
        (ACCESS, 6, None),
        (TRUNK, NO_TAG, 7),
        (TRUNK, 0, 7),
        (TRUNK, 7, 7),
        (TRUNK, 5, 5),
        (TRUNK, 8, None),
        (WITHOUT_NATIVE, NO_TAG, None),
        (WITHOUT_NATIVE, 0, None),
        (WITHOUT_NATIVE, 6, 6),
    ],
)
def test_the_port_and_the_tag_decide_about_the_vlan(
    vlans: Vlans, tag: int, vlan: int | None
) -> None:
    assert vlans.vlan_of(tag) == vlan


@pytest.mark.parametrize(
    ("vlans", "vlan", "tag", "form"),
    [
        (DEFAULT, 1, NO_TAG, UNCHANGED),
        (DEFAULT, 1, 0, WITHOUT_TAG),
        (DEFAULT, 1, 1, WITHOUT_TAG),
        (DEFAULT, 5, 5, UNCHANGED),
        (DEFAULT, 5, NO_TAG, 5),
        (DEFAULT, 5, 0, 5),
        (ACCESS, 5, NO_TAG, UNCHANGED),
        (ACCESS, 5, 5, WITHOUT_TAG),
        (ACCESS, 6, 6, LEFT_OUT),
        (ACCESS, 1, NO_TAG, LEFT_OUT),
        (TRUNK, 7, 7, WITHOUT_TAG),
        (TRUNK, 5, NO_TAG, 5),
        (TRUNK, 6, 6, UNCHANGED),
        (TRUNK, 8, 8, LEFT_OUT),
        (WITHOUT_NATIVE, 1, NO_TAG, LEFT_OUT),
    ],
)
def test_the_port_and_the_vlan_decide_about_the_tag(
    vlans: Vlans, vlan: int, tag: int, form: int
) -> None:
    assert vlans.form_of(vlan, tag) == form
