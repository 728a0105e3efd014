"""Every tensor of a run under one flat name, for checkpoints: `model/...`, `optimizer/...`, `ema/...`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sam3ft_trainer.run.ema import Ema

MODEL = "model/"
OPTIMIZER = "optimizer/"
EMA = "ema/"


def model_tensors(sam3: nn.Module) -> dict[str, Tensor]:
    """Return the model's parameters and persistent buffers, under `model/` and their own names."""
    return {MODEL + name: tensor for name, tensor in sam3.state_dict().items() if tensor.device.type != "meta"}


def optimizer_tensors(sam3: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return AdamW's state by parameter name, creating it where no step has been made yet.

    Names, not positions: a later change of the group layout must not shuffle moments between parameters.
    """
    tensors: dict[str, Tensor] = {}
    names = {id(parameter): name for name, parameter in sam3.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                _create_moments(state, parameter, fused=bool(group.get("fused")))
            for key in ("step", "exp_avg", "exp_avg_sq"):
                tensors[f"{OPTIMIZER}{key}/{names[id(parameter)]}"] = state[key]
    return tensors


def _create_moments(state: dict[str, Tensor], parameter: Tensor, *, fused: bool) -> None:
    # As torch.optim.AdamW does at its first step: the fused kernel keeps the step count on the device.
    device = parameter.device if fused else torch.device("cpu")
    state["step"] = torch.zeros((), dtype=torch.float32, device=device)
    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def ema_tensors(ema: Ema | None) -> dict[str, Tensor]:
    """Return the averages under `ema/` and the parameters' names; empty without an average."""
    return {} if ema is None else {EMA + name: tensor for name, tensor in ema.tensors().items()}


def all_tensors(sam3: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None) -> Mapping[str, Tensor]:
    """Return everything a commit holds; the tensors are the live ones, not copies."""
    return {**model_tensors(sam3), **optimizer_tensors(sam3, optimizer), **ema_tensors(ema)}
