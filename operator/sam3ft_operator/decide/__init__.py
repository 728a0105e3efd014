"""Pure policies: what follows from a resource, its children and the time; one policy per file."""

from sam3ft_operator.decide.decide import decide, differs_in_counts_alone, is_worth_writing

__all__ = ["decide", "differs_in_counts_alone", "is_worth_writing"]
