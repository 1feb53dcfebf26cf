"""Frame stride: how far apart the frames of a batch are best.

Loop cost of the bare C limit, with the frames at different distances.
"""

import argparse
from typing import Final

from .link import Frames
from .loop import Side, add_frame_arguments, compare, in_c
from .slices import Claim

STRIDES: Final = (2048, 1600, 2112, 2176, 2240, 2304, 2368)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_frame_arguments(parser, batch=[64, 256, 1024])
    parser.add_argument(
        "--stride",
        type=int,
        nargs="+",
        default=STRIDES,
        help="bytes from frame to frame; the others are compared with the"
        f" first ({' '.join(map(str, STRIDES))})",
    )


def run(options: argparse.Namespace) -> None:
    def sides_of(size: int, batch: int) -> list[tuple[Side, Frames]]:
        first, *others = options.stride
        contenders = [(f"{first}, control", first)]
        contenders += [(str(stride), stride) for stride in others]
        limit = in_c(auxdata=False)
        return [
            (Side(str(first), limit), Frames(batch, size, first)),
            *(
                (
                    Side(name, limit, claim=Claim(str(first))),
                    Frames(batch, size, stride),
                )
                for name, stride in contenders
            ),
        ]

    compare(options, sides_of)
