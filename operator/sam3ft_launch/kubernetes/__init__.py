"""Runs on a Kubernetes cluster, as values: from a resource to every object that is created; nothing is touched here."""
