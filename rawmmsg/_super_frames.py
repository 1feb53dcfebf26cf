"""Super-frames in a batch."""

from ._rawmmsg import PacketBatch


def frames_in(batch: PacketBatch, start: int, stop: int) -> list[int]:
    """Returns of how many frames each of these rows consists: a super-frame of
    one for each segment, any other row of one. The batch must have offload
    headers."""
    # GSO_NONE is 0. A row that is marked as not to be sent may have no size.
    return [
        -(-(length - header) // size) if kind and size else 1
        for kind, length, header, size in zip(
            batch.gso_types[start:stop].tolist(),
            batch.lengths[start:stop].tolist(),
            batch.header_lengths[start:stop].tolist(),
            batch.gso_sizes[start:stop].tolist(),
            strict=True,
        )
    ]
