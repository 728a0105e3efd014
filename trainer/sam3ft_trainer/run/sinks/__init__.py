"""Sinks of a run's curves: Weights & Biases, MLflow and OpenTelemetry, each through its own library and thread."""
