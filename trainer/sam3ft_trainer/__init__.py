"""The trainer: what runs on the accelerators."""
