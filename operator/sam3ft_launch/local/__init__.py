"""The local backend: one run folder, one supervisor process, its coordinator and its launcher."""
