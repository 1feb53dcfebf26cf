"""Runs the compiler's passes in order."""

from collections.abc import Sequence

from .assembler import assemble
from .cfg import ACCEPT, REJECT, Graph
from .codegen.fields import Fields
from .codegen.generator import generate
from .codegen.offsets import ETHERNET, RAW_IP
from .codegen.relations import check_operands
from .errors import FilterError, UnsupportedFilterError
from .optimize.passes import optimize
from .program import Program
from .syntax.parser import parse

__all__ = ["compile_expression"]

# linux/if_arp.h: link types, by what their packets begin with.
_LAYERS = {
    1: ETHERNET,  # ARPHRD_ETHER
    772: ETHERNET,  # ARPHRD_LOOPBACK
    519: RAW_IP,  # ARPHRD_RAWIP
    768: RAW_IP,  # ARPHRD_TUNNEL
    769: RAW_IP,  # ARPHRD_TUNNEL6
    776: RAW_IP,  # ARPHRD_SIT
    778: RAW_IP,  # ARPHRD_IPGRE
    65534: RAW_IP,  # ARPHRD_NONE
}


def compile_expression(
    expression: str,
    values: Sequence[object],
    link_type: int,
    snaplen: int,
    live: bool,
    netmask: int | None,
) -> Program:
    """See rawmmsg.bpf.compile()."""
    layer = _LAYERS.get(link_type)
    if layer is None:
        raise UnsupportedFilterError(
            f"link type {link_type} (ARPHRD_*) is not supported", expression
        )
    tree = parse(expression, values)
    graph = Graph(live)
    root = ACCEPT
    try:
        if tree is not None:
            fields = Fields(graph, layer, expression, netmask)
            root = generate(fields, tree)
            root = optimize(graph, root)
            check_operands(fields, root)
        if root == REJECT:
            raise FilterError("the expression rejects all packets")
        return Program.from_instructions(assemble(graph, root, snaplen))
    except FilterError as error:
        if error.expression is None:
            # The expression as a whole is impossible, not one part of it.
            raise FilterError(error.reason, expression, 0) from None
        raise
