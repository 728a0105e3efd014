"""Addresses, the append-only commit log, and checkpoints that are verified before they are used."""
