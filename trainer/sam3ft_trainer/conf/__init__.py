"""Hydra groups and their composition into a validated TrainingConfig."""
