"""The coordinator: one small process per run that decides who belongs to the group, and when it starts."""
