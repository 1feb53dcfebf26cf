"""The two exceptions of the filter compiler."""

__all__ = ["FilterError", "UnsupportedFilterError"]

# The part of a long expression that is shown on each side of the caret.
_CONTEXT = 60


def _caret_lines(expression: str, position: int) -> str:
    """The expression around `position`, with a caret under that character."""
    start = max(0, position - _CONTEXT)
    end = min(len(expression), position + _CONTEXT)
    head = "..." if start else ""
    tail = "..." if end < len(expression) else ""
    # Tabs and newlines would move the caret to another column.
    shown = "".join(
        char if char.isprintable() else " " for char in expression[start:end]
    )
    caret = " " * (len(head) + position - start) + "^"
    return f"  {head}{shown}{tail}\n  {caret}"


class FilterError(ValueError):
    """An expression that is not a valid filter, or that is impossible.

    `reason` is the message alone. `position` is the index of the mistake in
    `expression`, or None if there is no single position. str() adds the
    expression, with a caret under the mistake.
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
    """A valid expression that this compiler does not support."""
