"""Pure policies: what follows from a resource, its children and the time; one policy per file."""
