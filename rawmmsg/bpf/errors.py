"""The two exceptions of the filter compiler."""

from __future__ import annotations

__all__ = ["FilterError", "UnsupportedFilterError"]

# A line of context either side of the caret, so that a long expression
# does not fill the screen.
_CONTEXT = 60


def _caret_lines(expression: str, position: int) -> str:
    """The part of the expression around `position`, a caret under it."""
    start = max(0, position - _CONTEXT)
    end = min(len(expression), position + _CONTEXT)
    head = "..." if start else ""
    tail = "..." if end < len(expression) else ""
    # Tabs and newlines would put the caret in the wrong column.
    shown = "".join(
        char if char.isprintable() else " " for char in expression[start:end]
    )
    caret = " " * (len(head) + position - start) + "^"
    return f"  {head}{shown}{tail}\n  {caret}"


class FilterError(ValueError):
    """An expression that is no filter, or a filter that cannot be.

    `reason` is the message alone, `position` the index of the mistake in
    `expression` (None where no single place is to blame). str() adds the
    expression with a caret under the mistake.
    """

    def __init__(
        self,
        reason: str,
        expression: str | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(reason, expression, position)
        self.reason = reason
        self.expression = expression
        self.position = position

    def __str__(self) -> str:
        if self.expression is None or self.position is None:
            return self.reason
        return f"{self.reason}\n{_caret_lines(self.expression, self.position)}"


class UnsupportedFilterError(FilterError):
    """A valid expression that this compiler does not compile."""
