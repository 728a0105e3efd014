"""The contract of sam3ft: what every other part agrees on, in pydantic and the standard library alone."""
