"""Losses and matchers at parity with upstream, normalised over the global batch."""
