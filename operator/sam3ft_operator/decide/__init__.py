"""Pure policies: what follows from a resource, its children and the time; one policy per file."""

from sam3ft_operator.decide.decide import decide, is_worth_writing

__all__ = ["decide", "is_worth_writing"]
