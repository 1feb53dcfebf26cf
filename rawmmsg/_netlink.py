"""Questions and orders to the kernel over netlink(7)."""

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = [
    "ask",
    "attribute",
    "attributes",
    "dump",
    "dumps",
    "nested",
    "order",
    "unpack",
]

# linux/netlink.h
_NLM_F_REQUEST: Final = 0x001
_NLM_F_ACK: Final = 0x004
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSGHDR: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_NLATTR: Final = struct.Struct("=HH")  # struct nlattr
_NLA_TYPE_MASK: Final = 0x3FFF
_ERROR: Final = struct.Struct("=i")  # the beginning of struct nlmsgerr

_ROOM: Final = 1 << 20
_TIMEOUT: Final = 10.0


def dump(protocol: int, kind: int, question: bytes) -> list[bytes]:
    """Returns all messages that answer a dump, without their headers. Raises
    OSError if the kernel refuses."""
    (answers,) = dumps(protocol, kind, [question])
    return answers


def dumps(
    protocol: int, kind: int, questions: Iterable[bytes]
) -> list[list[bytes]]:
    """Returns the messages that answer each of several dumps.

    A message that has no room in the kernel's buffer ends a dump without an
    error. The buffer has less than a page until the socket has received
    something, then 32 KiB (net/netlink/af_netlink.c:netlink_dump()). So the
    first question must be one whose answers are small.
    """
    with _open(protocol) as sock:
        return [
            list(_answers(sock, kind, question, _NLM_F_DUMP))
            for question in questions
        ]


def ask(protocol: int, kind: int, question: bytes) -> bytes:
    """Returns the one message that answers a question."""
    with _open(protocol) as sock:
        return next(_answers(sock, kind, question, 0))


def order(protocol: int, kind: int, body: bytes) -> None:
    """Makes the kernel change something. Raises OSError if it refuses."""
    with _open(protocol) as sock:
        for _ in _answers(sock, kind, body, _NLM_F_ACK):
            pass


def _open(protocol: int) -> socket.socket:
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
    )
    sock.settimeout(_TIMEOUT)
    return sock


def _answers(
    sock: socket.socket, kind: int, question: bytes, flags: int
) -> Iterator[bytes]:
    size = _NLMSGHDR.size + len(question)
    header = _NLMSGHDR.pack(size, kind, _NLM_F_REQUEST | flags, 1, 0)
    sock.send(header + question)
    while True:
        for type_, body in _messages(sock.recv(_ROOM)):
            if type_ == _NLMSG_DONE:
                return
            if type_ == _NLMSG_ERROR:
                number = -int(_ERROR.unpack_from(body)[0])
                if not number:
                    return  # the order has been carried out
                raise OSError(number, os.strerror(number))
            yield body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and body of each message in a datagram."""
    start = 0
    while start + _NLMSGHDR.size <= len(data):
        size, type_, *_ = _NLMSGHDR.unpack_from(data, start)
        yield type_, data[start + _NLMSGHDR.size : start + size]
        start += _aligned(size)


def attribute(kind: int, value: bytes) -> bytes:
    """Returns an attribute to be put behind the fixed part of a message."""
    size = _NLATTR.size + len(value)
    padding = bytes(_aligned(size) - size)
    return _NLATTR.pack(size, kind) + value + padding


def attributes(data: bytes) -> dict[int, bytes]:
    """Returns the attributes that follow the fixed part of a message."""
    found = {}
    start = 0
    while start + _NLATTR.size <= len(data):
        size, type_ = _NLATTR.unpack_from(data, start)
        if size < _NLATTR.size:
            break
        body = data[start + _NLATTR.size : start + size]
        found[type_ & _NLA_TYPE_MASK] = body
        start += _aligned(size)
    return found


def nested(found: dict[int, bytes], *path: int) -> dict[int, bytes]:
    """Returns the attributes inside an attribute inside ..."""
    for type_ in path:
        found = attributes(found.get(type_, b""))
    return found


def unpack(form: str, data: bytes | None, default: int = 0) -> int:
    """Returns the number in an attribute, or the default if the kernel did
    not send it."""
    return default if data is None else int(struct.unpack_from(form, data)[0])


def _aligned(size: int) -> int:
    return (size + 3) & ~3
