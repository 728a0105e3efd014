"""The verbs of the command line on a cluster: the same words and the same output as on one machine."""
