"""A worker that sums its rank over the group with torch.distributed, and writes what it got."""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
result = os.environ.get("SAM3FT_RESULT_FILE")
word = {"code": 0, "rank": dist.get_rank(), "metrics": {"sum": value.item()}}
dist.destroy_process_group()
if result is not None:
    Path(result).write_text(json.dumps(word))
print(f"rank {word['rank']} got {value.item()}", flush=True)
