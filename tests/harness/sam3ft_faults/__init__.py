"""Faults on purpose: plans that strike a running trainer at a named place, and a proxy that spoils its storage.

See README.md beside this file for how to use both outside this project's own tests.
"""
