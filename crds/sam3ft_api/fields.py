r"""Types of single values, shared by the resource and the config document: one pattern for each kind of text.

Every pattern means the same in RE2 (the API server), in Rust (pydantic) and in Python: no class shorthand (`\s` is
Unicode in one and ASCII in another), no look-around, `^` and `$` at the two ends only. None of them lets `${` through.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, StringConstraints

from sam3ft_api import limits

FREE_TEXT = r"^([^$\x00-\x1f\x7f]|[$]+[^${\x00-\x1f\x7f])*[$]*$"
"""Any text without control characters and without `${`."""
FOLDER = r"[^\x00-\x1f\x7f$:]+"
STORE = r"(s3|gs|az)://[A-Za-z0-9][^\x00-\x20\x7f$]*"
STORE_ADDRESS = rf"^({STORE}|{FOLDER})$"
MODEL_ADDRESS = (
    rf"^({STORE}|hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+(@[A-Za-z0-9._/-]+)?|preset:[a-z0-9-]+|{FOLDER})$"
)
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
OPTIONAL_DNS_LABEL = r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$"
OPTIONAL_DNS_NAME = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
IMAGE = r"^([A-Za-z0-9]([A-Za-z0-9._:/@-]{0,510}[A-Za-z0-9])?)?$"
SLURM_NAME = r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?$"
DURATION = r"^([1-9][0-9]{0,7}s|[1-9][0-9]{0,5}m|[1-9][0-9]{0,3}h|[1-9][0-9]{0,2}d)$"
QUANTITY = r"^[0-9]{1,12}([.][0-9]{1,6})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
EXTENDED_RESOURCE = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"

PATTERN_WORDS = {
    FREE_TEXT: "text without control characters and without ${",
    STORE_ADDRESS: "s3://BUCKET/PREFIX, gs://..., az://... or a folder",
    MODEL_ADDRESS: "s3://BUCKET/PREFIX, gs://..., az://..., hf://OWNER/NAME@REVISION, preset:NAME or a folder",
    DNS_LABEL: "lower-case letters, digits and dashes, at most 63",
    OPTIONAL_DNS_LABEL: "lower-case letters, digits and dashes, at most 63, or empty",
    OPTIONAL_DNS_NAME: "lower-case letters, digits, dashes and dots, or empty",
    LABEL_KEY: "a Kubernetes label such as kubernetes.io/arch",
    LABEL_VALUE: "a value of a Kubernetes label",
    IMAGE: "an image name such as registry.example/sam3ft:1.0",
    SLURM_NAME: "letters, digits, dots, dashes and underscores, at most 64",
    DURATION: "a number with one unit: 90s, 30m, 12h or 3d",
    QUANTITY: 'an amount as Kubernetes writes it: 8, "500m" or 64Gi',
    ENV_NAME: "the name of a variable: letters, digits and underscores",
    EXTENDED_RESOURCE: "an extended resource of nodes such as nvidia.com/gpu",
}
"""What each pattern allows, for people; used in error messages and in the reference."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """Return the seconds of a duration such as `90s`, `30m`, `12h` or `3d`.

    Raises:
        ValueError: the text is no such duration.
    """
    if not re.fullmatch(DURATION, duration):
        raise ValueError(f"duration {duration!r} is not a number with one unit: 90s, 30m, 12h or 3d")
    return int(duration[:-1]) * _SECONDS[duration[-1]]


def _whole(value: Any) -> Any:
    """Turn 20.0 into 20, as JSON Schema counts it among the integers; leave the rest to the strict type."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _quantity_text(value: Any) -> Any:
    value = _whole(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Flag = Annotated[bool, Strict()]
"""true or false; `yes`, `on`, 1 and "true" are refused."""
Whole = Annotated[int, Strict(), BeforeValidator(_whole)]
"""An integer, also when it is written 20.0; never a string or a boolean."""
ExactWhole = Annotated[int, Strict()]
"""An integer of the resource, never written 20.0: the API server reads every one of them with a rule, because without a
rule it takes 1.0000000001 for an integer, and with one it refuses both."""
Number = Annotated[float, Strict()]
"""A finite number; an integer counts, a string or a boolean does not."""
Share = Annotated[Number, Field(ge=0, le=1)]
"""A probability or a fraction."""
Positive = Annotated[Number, Field(gt=0, le=1e9)]
Weight = Annotated[Number, Field(ge=0, le=1e6)]
"""Factor of a term in a sum."""
Rate = Annotated[Number, Field(gt=0, le=1)]
"""A learning rate."""
Steps = Annotated[Whole, Field(ge=0, le=limits.MAX_STEP)]
"""A number of optimizer steps."""

FreeText = Annotated[str, StringConstraints(pattern=FREE_TEXT)]
Phrase = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=FREE_TEXT)]
"""What is asked of the model, in words; about 32 tokens are used, the rest is cut and counted."""
CategoryName = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=FREE_TEXT)]
"""A category exactly as the annotation file writes it."""
Address = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=FREE_TEXT)]
"""Any address that the trainer resolves; the resource allows fewer forms."""
StoreAddress = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=STORE_ADDRESS)]
"""`s3://`, `gs://` or `az://` with bucket and prefix, or a folder."""
ModelAddress = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=1024,
        pattern=MODEL_ADDRESS,
    ),
]
"""`StoreAddress`, `hf://owner/name@revision`, or `preset:tiny`."""
DnsLabel = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=DNS_LABEL)]
OptionalDnsLabel = Annotated[str, StringConstraints(max_length=63, pattern=OPTIONAL_DNS_LABEL)]
OptionalDnsName = Annotated[str, StringConstraints(max_length=253, pattern=OPTIONAL_DNS_NAME)]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=LABEL_VALUE)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317, pattern=LABEL_KEY)]
ImageName = Annotated[str, StringConstraints(max_length=512, pattern=IMAGE)]
ProjectName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=SLURM_NAME)]
"""What servers of experiments all take as the name of a project; the same signs as SLURM's names."""
SlurmName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=SLURM_NAME)]
DurationText = Annotated[str, StringConstraints(min_length=2, max_length=9, pattern=DURATION)]
"""A number and one unit: `90s`, `30m`, `12h`, `3d`."""
Quantity = Annotated[
    str,
    StringConstraints(min_length=1, max_length=20, pattern=QUANTITY),
    BeforeValidator(_quantity_text),
    Field(
        # The bounds are those of the integer; the pattern is that of the text.
        json_schema_extra={"x-kubernetes-int-or-string": True, "minimum": 0, "maximum": 999_999_999_999},
    ),
]
"""An amount as Kubernetes writes it: 8, "500m", 64Gi."""

EnvName = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=ENV_NAME)]
ExtendedResource = Annotated[str, StringConstraints(min_length=3, max_length=317, pattern=EXTENDED_RESOURCE)]
"""What a device plugin offers: a domain, a slash and a name."""

BackendName = Literal["local", "kubernetes", "slurm"]

Task = Literal["detection", "segmentation"]
Part = Literal["vision", "text", "neck", "geometry", "encoder", "decoder", "mask"]
"""Names of the model's parts, for freezing and activation checkpointing. `neck` is the vision encoder's FPN."""
Precision = Literal["bf16", "fp16", "fp32"]
Compile = Literal["auto", "always", "never"]
"""When the trained layers are compiled: where it can be done, or that it must, or must not."""
SinkName = Literal["wandb", "mlflow", "otlp"]
"""Where a run's curves can go besides its own files: Weights & Biases, MLflow, a collector of OpenTelemetry."""
Metric = Literal["bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50", "cgF1"]
"""Values that can select a checkpoint."""
