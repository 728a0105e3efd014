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
MAX_RANKS_SHOWN = 64
"""Ranks whose own figures are relayed: each is five series in Prometheus, and one page shows no more."""
MAX_METRIC_NAME_CHARS = 300
"""Characters of a metric's name: a prefix and a category name."""
MAX_ATTEMPT = 1_000_000
"""Number of an attempt; six digits fit into every object name."""
MAX_ROUND = 1_000_000_000
"""Number of a round within an attempt."""
MAX_STEP = 1_000_000_000
"""Optimizer steps: 10,000 a day for 270 years."""

# --- The resource ----------------------------------------------------------------------------------------------------

MAX_FILE_BYTES = 256 * 1024
"""Bytes of a YAML file that is read; a full spec needs about 40 KiB."""
MAX_YAML_NODES = 20_000
"""Nodes of a YAML document after its aliases are expanded; ends expansion bombs."""
MAX_DEPTH = 16
"""Levels of nesting of a YAML document."""
MAX_CONFIG_BYTES = 16 * 1024
"""Bytes of `training.config` as JSON; all settings together need 5 KiB."""
MAX_CRD_BYTES = 100 * 1024
"""Bytes of the generated CRD: `kubectl apply` keeps a copy in an annotation of at most 256 KiB."""
MAX_PHRASED_CATEGORIES = 512
"""Categories with phrases of their own in the spec; larger vocabularies belong into the annotation file."""
MAX_PHRASES_PER_CATEGORY = 16
"""Phrases of one category; one of them is drawn for each image."""
MAX_EXHAUSTIVE = 512
"""Names in `data.exhaustiveCategories`."""
MAX_PHRASES_PER_IMAGE = 10_000
"""Phrases asked in one image."""
MAX_NODE_SELECTOR = 32
"""Labels in `workers.nodeSelector`."""
MAX_TOLERATIONS = 32
"""Entries in `workers.tolerations`."""
MAX_GLOBAL_BATCH = 65_536
"""Images per optimizer step."""
MAX_EPOCHS = 100_000
"""Passes over the training images; one image for 100,000 steps is the smallest use."""
MAX_SECONDS = 31_622_400
"""Seconds of a year: the largest time-out, deadline or time to live."""
MIN_GRACE_S = 15
"""Seconds between the request to stop and the kill: 10 are kept for ending, the rest saves."""
MAX_RETRY = 1000
"""Value of `retry`, raised by one for each new try."""
MAX_RESTARTS = 10_000
"""Restarts that a failure policy can forgive."""
MAX_KEPT = 1000
"""Checkpoints kept."""
MAX_CONFIG_MAP_BYTES = 1_000_000
"""Bytes of the files in a run's ConfigMap: the API server refuses more than 1 MiB, and the metadata counts."""

# --- Status ----------------------------------------------------------------------------------------------------------

MAX_CONDITIONS = 16
"""Conditions of a resource; eight types exist."""
MAX_ATTEMPTS_KEPT = 10
"""Attempts of which the status keeps an account, the newest."""
MAX_STATUS_TEXT = 4096
"""Characters of a condition's message and of the kept end of a failing rank's log."""
MAX_BUCKETS = 32
"""Entries of the ledger of counted ends; those that lie close together share one."""
MAX_CAUSES = 32
"""Causes among which lost seconds are divided."""

# --- Names -----------------------------------------------------------------------------------------------------------

MAX_NAME_CHARS = 63
"""Characters of an object's name: a label value and a host name hold no more."""
MAX_JOB_NAME_CHARS = 57
"""Characters of an Indexed Job's name: its pods' host names append `-` and an index of up to four digits."""
