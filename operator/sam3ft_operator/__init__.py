"""The operator: watches resources and their children, decides by pure functions, and acts idempotently."""
