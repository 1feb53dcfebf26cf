"""Facts about values that hold on a path through the graph."""

from typing import NamedTuple, TypeAlias

from ..cfg import WORD, holds

__all__ = ["UNKNOWN", "Facts", "Known", "decide", "learn", "meet_facts"]

# The most numbers remembered for one value.
_MAX_SET = 64

_NOTHING: frozenset[int] = frozenset()


class Known(NamedTuple):
    """What is known about one value.

    `allowed` holds all numbers that are possible. If it is None, the value
    is from `low` to `high`, not in `excluded`, and has no bit of `zeros` set.
    """

    allowed: frozenset[int] | None
    excluded: frozenset[int] = _NOTHING
    low: int = 0
    high: int = WORD
    zeros: int = 0


UNKNOWN = Known(None)

# What is known by value, and the outcome of tests by (value, test, operand).
Key: TypeAlias = int | tuple[int, str, int]
Facts: TypeAlias = dict[Key, Known | bool]


def decide(known: Known, test: str, operand: int) -> bool | None:
    """The outcome of a test, None if it is not known."""
    allowed, excluded, low, high, zeros = known
    if allowed is not None:
        first = None
        for number in allowed:
            outcome = holds(test, number, operand)
            if first is None:
                first = outcome
            elif first != outcome:
                return None
        return first
    if test == "=":
        if operand in excluded or not low <= operand <= high:
            return False
        return False if operand & zeros else None
    if test == "&":
        return False if not operand & ~zeros else None
    if test == ">":
        operand += 1
    if low >= operand:
        return True
    return False if high < operand else None


def learn(known: Known, test: str, operand: int, outcome: bool) -> Known:
    """What is known after a test."""
    allowed, excluded, low, high, zeros = known
    if allowed is not None:
        return Known(
            frozenset(
                number
                for number in allowed
                if holds(test, number, operand) is outcome
            )
        )
    if test == "=":
        if outcome:
            return Known(frozenset((operand,)))
        if len(excluded) >= _MAX_SET:
            return known
        return Known(None, excluded | {operand}, low, high, zeros)
    if test == "&":
        if outcome:
            return known
        return Known(None, excluded, low, high, zeros | operand)
    if test == ">":
        operand += 1
    if outcome:
        low = max(low, operand)
    else:
        high = min(high, operand - 1)
    if low == high:
        return Known(frozenset((low,)))
    return Known(None, excluded, low, high, zeros)


def meet(one: Known, other: Known) -> Known | None:
    """What holds in both cases. None if nothing does."""
    if one == other:
        return one
    if one.allowed is None:
        one, other = other, one
    allowed = one.allowed
    if allowed is None:
        result = Known(
            None,
            one.excluded & other.excluded,
            min(one.low, other.low),
            max(one.high, other.high),
            one.zeros & other.zeros,
        )
    elif other.allowed is not None:
        union = allowed | other.allowed
        if len(union) > _MAX_SET:
            return None
        return Known(union)
    else:
        zeros = other.zeros
        for number in allowed:
            zeros &= ~number
        result = Known(
            None,
            other.excluded - allowed,
            min(other.low, *allowed) if allowed else other.low,
            max(other.high, *allowed) if allowed else other.high,
            zeros,
        )
    return None if result == UNKNOWN else result


def meet_facts(one: Facts, other: Facts) -> Facts:
    """The facts that hold on both paths."""
    result: Facts = {}
    for key, fact in one.items():
        second = other.get(key)
        if fact is second:
            result[key] = fact
        elif isinstance(fact, Known) and isinstance(second, Known):
            both = meet(fact, second)
            if both is not None:
                result[key] = both
    return result
