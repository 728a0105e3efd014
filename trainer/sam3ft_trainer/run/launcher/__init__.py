"""The launcher: starts the workers of one node, restarts them when that helps, ends with the code that says why."""
