"""Training steps of upstream's SAM 3 trainer (the `sam3` package) on a GPU, as the peer of `benchmarks.gpu`.

    PYTHONPATH=crds:trainer python -m benchmarks.gpu_upstream --cases detection-1-b1 detection-1-b2 segmentation-8-b1

Images, phrases, boxes and masks are those of `benchmarks.gpu`; all else is upstream's: its model as its builder makes
it for training (dropout, one-to-many queries, everything recomputed in backward), its collator, matchers and losses,
and `Trainer.train_epoch` with the settings of its public configuration for fine-tuning: bf16 autocast with a gradient
scaler, clipping, unfused AdamW with its groups and schedules, DDP also for one process, every loss term read in each
step. Ready batches stand in for the loader. A case is TASK-PHRASES-bIMAGES; one that does not fit is a row too.

    images/s   measured from the end of the last warm-up step to the end of the last step
    alloc, reserved   GiB: most bytes in tensors, most held by torch's allocator, weights and optimizer included
    loss       of the last step; JSON has those of all steps

Weights are random. The package brings no vocabulary, so its tokenizer gets one without merges, in which each letter is
a token; phrases are padded to 32 tokens, so no shape depends on that. On the CPU upstream's autocast turns itself off
and steps are fp32; `--small` shrinks image and text encoder. Both only try the benchmark itself.

Needs sam3, timm, einops, ftfy, wcwidth, regex, iopath, portalocker, hydra-core, omegaconf, antlr4-python3-runtime,
torchmetrics, lightning-utilities, tensorboard, protobuf, absl-py, pycocotools, psutil and tqdm, and what
`benchmarks.gpu` needs; no network. The last line is JSON.
"""

import argparse
import gc
import gzip
import importlib.metadata
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.gpu import describe, is_out_of_memory
from benchmarks.gpu_cases import Case, Settings, peak_by_name
from benchmarks.gpu_upstream_steps import measure
from sam3 import model_builder  # type: ignore[import-not-found]
from sam3.train import trainer  # type: ignore[import-not-found]
from torch import distributed, nn

from sam3ft_api.errors import InvalidConfig, Sam3ftError

NATIVE = 1008
"""Input size that upstream's builder has written into the model."""
HEADER = f"{'case':28} {'images/s':>9} {'ms/step':>9} {'alloc':>6} {'reserved':>8} {'loss':>9}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen cases, print a row for each and a JSON line; return the exit code."""
    arguments = _arguments(argv)
    try:
        cases = [_case(name) for name in arguments.cases]
        if arguments.device == "cuda" and not torch.cuda.is_available():
            raise InvalidConfig("torch finds no usable CUDA device; check the driver, or pass --device cpu")
    except Sam3ftError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    cuda = device.type == "cuda"
    settings = Settings(
        preset="upstream, small" if arguments.small else "upstream",
        resolution=arguments.resolution,
        device=device,
        objects=arguments.objects,
        warmup=max(1, arguments.warmup),
        steps=max(1, arguments.steps),
        freeze=(),
        peak_tflops=peak_by_name(torch.cuda.get_device_name(device)) if cuda else None,
    )
    chosen = {"ddp": not arguments.no_ddp, "triton": cuda and not arguments.no_triton}
    # Its builder can compile, but its configuration for fine-tuning does not ask for it.
    facts = describe(settings) | {"compile": "never", "sam3": importlib.metadata.version("sam3"), **chosen}
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    # What upstream says of itself while it builds and trains is not about the figures.
    warnings.simplefilter("ignore")
    _set_up_torch(cuda=cuda, ddp=chosen["ddp"])
    model = build_model(settings, small=arguments.small, segmentation=any(c.task == "segmentation" for c in cases))
    print(f"parameters {sum(weights.numel() for weights in model.parameters()) / 1e6:.1f} M")
    print(HEADER, flush=True)
    rows = [_row(model, settings, case, **chosen) for case in cases]
    print(json.dumps({**facts, "rows": rows}))
    distributed.destroy_process_group()
    return 0


def _case(name: str) -> Case:
    """Return the case called `name`; upstream recomputes everything in backward, so that is not part of the name."""
    try:
        return Case.parse(f"{name}-all")
    except InvalidConfig:
        raise InvalidConfig(f"{name!r} is no case; write TASK-PHRASES-bIMAGES, such as segmentation-8-b2") from None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="CASE", default=["detection-1-b1"], help="rows to measure")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the benchmark itself")
    parser.add_argument("--resolution", type=int, default=NATIVE)
    parser.add_argument("--objects", type=int, default=20, help="annotated objects of each phrase in an image")
    parser.add_argument("--warmup", type=int, default=4, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=12, help="timed steps")
    parser.add_argument(
        "--small", action="store_true", help="small image and text encoder, to try the benchmark itself"
    )
    parser.add_argument("--no-ddp", action="store_true", help="without the wrapper that upstream always puts on")
    parser.add_argument("--no-triton", action="store_true", help="plain focal loss; Triton needs a C compiler")
    return parser.parse_args(argv)


def _set_up_torch(*, cuda: bool, ddp: bool) -> None:
    """Do what upstream's trainer does to torch before it builds anything, for a group of one process."""
    torch.manual_seed(123)
    if cuda:
        torch.cuda.set_device(0)
        chosen = trainer.CudaConf()
        torch.backends.cudnn.deterministic = chosen.cudnn_deterministic
        torch.backends.cudnn.benchmark = chosen.cudnn_benchmark
        torch.backends.cuda.matmul.allow_tf32 = chosen.allow_tf32
        torch.backends.cudnn.allow_tf32 = chosen.allow_tf32
        # It is older than cuDNN attention in torch: with that a layer that is computed again takes another kernel,
        # and torch refuses what that saved.
        torch.backends.cuda.enable_cudnn_sdp(False)
    # A group of one needs no other machine, and some machines have no other interface.
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    # Losses count boxes across the group even where DDP is left out.
    store = distributed.HashStore()  # type: ignore[attr-defined]  # documented, but not in torch's list of exports
    backend = "nccl" if cuda and ddp else "gloo"
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def build_model(settings: Settings, *, small: bool, segmentation: bool) -> nn.Module:
    """Return upstream's image model for training, with random weights, on the device.

    Args:
        settings: input size and device.
        small: shrink the image and the text encoder.
        segmentation: with the mask head.
    """
    vit: dict[str, Any] = {"img_size": settings.resolution}
    text: dict[str, Any] = {}
    if small:
        vit |= {"embed_dim": 128, "depth": 4, "num_heads": 2, "global_att_blocks": (3,)}
        text = {"width": 128, "heads": 2, "layers": 2}
    with ExitStack() as stack:

        def override(name: str, **settings: Any) -> None:
            stack.enter_context(patch.object(model_builder, name, _overriding(getattr(model_builder, name), settings)))

        override("ViT", **vit)
        override("VETextEncoder", **text)
        if settings.device.type == "cpu" or settings.resolution != NATIVE:
            # Tables for 1008 pixels, made on a CUDA device; without them both modules fill their tables as they go.
            override("TransformerDecoder", resolution=None, stride=None)
            override("PositionEmbeddingSine", precompute_resolution=None)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        vocabulary = Path(folder) / "vocabulary.txt.gz"
        # The first line is skipped, and there are no merges behind it.
        vocabulary.write_bytes(gzip.compress(b"no merges"))
        model: nn.Module = model_builder.build_sam3_image_model(
            bpe_path=str(vocabulary),
            device="cpu",
            eval_mode=False,
            load_from_HF=False,
            enable_segmentation=segmentation,
        )
    # These two wait for a checkpoint and hold whatever was in memory: NaN, with bad luck.
    encoder: Any = model.get_submodule("backbone.language_backbone.encoder")
    nn.init.normal_(encoder.positional_embedding, std=0.01)
    nn.init.normal_(encoder.text_projection, std=encoder.width**-0.5)
    return model.to(settings.device)


def _overriding(build: Callable[..., Any], settings: dict[str, Any]) -> Callable[..., Any]:
    return lambda **given: build(**given | settings)


def _row(model: Any, settings: Settings, case: Case, *, ddp: bool, triton: bool) -> dict[str, Any]:
    """Measure one case, print its row at once, and give its memory back."""
    name = f"{case.task}-{case.phrases}-b{case.images}"
    row: dict[str, Any] = {"case": name, "status": "ok"}
    head = model.segmentation_head
    try:
        # A model for detection is built without it.
        model.segmentation_head = head if case.task == "segmentation" else None
        row |= measure(model, settings, case, ddp=ddp, triton=triton)
    except FloatingPointError as error:
        row["status"] = str(error)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        row["status"] = "out of memory"
    finally:
        model.segmentation_head = head
    # Behind the handler: until it ends, the error's traceback holds every tensor of the step.
    for weights in model.parameters():
        weights.grad = None
    gc.collect()
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()
    print(line(row), flush=True)
    return row


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    if row["status"] != "ok":
        return f"{row['case']:28} {row['status']}"
    memory = [row["allocated_gib"], row["reserved_gib"]]
    allocated, reserved = ("-" if value is None else f"{value:.1f}" for value in memory)
    speed = f"{row['images_per_s']:9.2f} {1000 * row['step_s']:9.1f}"
    return f"{row['case']:28} {speed} {allocated:>6} {reserved:>8} {row['losses'][-1]:9.2f}"


if __name__ == "__main__":
    sys.exit(main())
