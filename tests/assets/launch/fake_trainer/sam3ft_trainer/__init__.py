"""Stands in for the trainer where only the command line is tested: on PYTHONPATH it comes first."""
