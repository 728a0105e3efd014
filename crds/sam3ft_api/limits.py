"""Every bound of the contract in one place, each with its unit and its reason.

Bounds exist so that a spec has a largest size (the API server prices validation rules by it), a message has a largest
length (a reader can refuse before it parses), and a slip of the keyboard is refused rather than scheduled.
"""

# --- Workers ---------------------------------------------------------------------------------------------------------

MAX_NODES = 1024
"""Nodes of one run. SAM 3 has 0.84 G parameters: beyond this the global batch grows past any use."""
MAX_GPUS_PER_NODE = 16
"""Accelerators of one node; the largest machines on sale have 16."""
MAX_WORLD_SIZE = MAX_NODES * MAX_GPUS_PER_NODE
"""Processes of one run."""

# --- Messages between launcher and coordinator -----------------------------------------------------------------------

PROTOCOL_VERSION = 1
"""Version of the messages; a peer of another version is refused, because both sides come from one release."""
MAX_LINE_BYTES = 256 * 1024
"""Bytes of one JSON line with its newline; the longest honest one is `round` with 1,024 names of 63 characters."""
MAX_TOKEN_CHARS = 256
"""Characters of an attempt's token; 64 hex digits are written."""
MIN_TOKEN_CHARS = 16
"""Characters below which a token could be guessed."""
MAX_MESSAGE_CHARS = 2048
"""Characters of a sentence for people that travels in messages and results."""
MAX_TRACEBACK_CHARS = 16_384
"""Characters kept of a traceback, from its end."""
MAX_TERMINATION_BYTES = 4096
"""Bytes of a container's termination message; Kubernetes cuts longer ones."""
MAX_METRICS = 512
"""Entries in a dictionary of metrics: per-class values of the largest usual data sets, and the totals."""
MAX_METRIC_NAME_CHARS = 300
"""Characters of a metric's name: a prefix and a category name."""
MAX_ATTEMPT = 1_000_000
"""Number of an attempt; six digits fit into every object name."""
MAX_ROUND = 1_000_000_000
"""Number of a round within an attempt."""
MAX_STEP = 1_000_000_000
"""Optimizer steps: 10,000 a day for 270 years."""
