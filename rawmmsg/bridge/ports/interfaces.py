"""Ethernet interfaces, and sockets that the parent process has opened."""

import socket

from ..._command.grammar import PortError
from ..._rawmmsg import RawSocket
from ...bpf import Program
from .. import filters
from .sockets import SocketPort

__all__ = ["Descriptor", "Interface"]


class Interface(SocketPort):
    """An Ethernet interface, by name: in the network namespace `netns`, or
    in that of the process."""

    def __init__(
        self, name: str, interface: str, netns: str | None = None
    ) -> None:
        super().__init__(name)
        self.interface = interface
        self.netns = netns

    def open(self, expression: str | None) -> None:
        self.take(self._open_socket(filters.for_interface(expression)))

    def _open_socket(self, program: Program | None) -> RawSocket:
        try:
            return RawSocket(
                self.interface,
                netns=self.netns,
                filter=program,
                promisc=True,
                vnet_hdr=True,
                ignore_outgoing=True,
                allow_down=True,
            )
        except ValueError as error:
            raise PortError(str(error)) from None
        except OSError as error:
            if "/" in str(error.filename):  # not the name of an interface
                error.strerror = f"{error.filename}: {error.strerror}"
            raise

    @property
    def is_interface(self) -> bool:
        return True

    @property
    def has_offloads(self) -> bool:
        return True

    @property
    def takes_super_frames(self) -> bool:
        return True

    @property
    def has_end(self) -> bool:
        return False


class Descriptor(SocketPort):
    """fd:N, a socket that the parent process has opened."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.number = number

    def open(self, expression: str | None) -> None:
        plain = socket.socket(fileno=self.number)
        try:
            family, kind = plain.family, plain.type
            if (family, kind) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                plain.getpeername()  # OSError unless it is connected
        finally:
            plain.detach()
        if family == socket.AF_PACKET:
            self._open_packet_socket(expression, kind)
            return
        if kind != socket.SOCK_DGRAM and (
            family != socket.AF_UNIX or kind != socket.SOCK_SEQPACKET
        ):
            raise PortError(
                f"{self.name}: not a datagram or SOCK_SEQPACKET socket"
            )
        compile_for = (
            filters.for_udp
            if family in (socket.AF_INET, socket.AF_INET6)
            else filters.for_datagrams
        )
        program = compile_for(expression)
        self.take(RawSocket(fileno=self.number, filter=program))

    def _open_packet_socket(self, expression: str | None, kind: int) -> None:
        if kind != socket.SOCK_RAW:
            raise PortError(
                f"{self.name}: a SOCK_DGRAM packet socket has no link headers"
            )
        program = filters.for_interface(expression)
        try:
            sock = RawSocket(
                fileno=self.number,
                filter=program,
                promisc=True,
                vlan=True,
                vnet_hdr=True,
                ignore_outgoing=True,
            )
        except ValueError as error:
            raise PortError(f"{self.name}: {error}") from None
        self.take(sock)
