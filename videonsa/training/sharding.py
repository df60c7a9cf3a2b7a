"""A model over several processes, each of which keeps a part of every weight (torch's FSDP2).

A process of a training of 7B in float32 with AdamW would keep 139 GB of weights, gradients and optimizer state; of n
processes each keeps an n-th. Weights come together for the time of a layer's pass, in the precision of its products,
and gradients go back in parts, in float32: the weights that the optimizer moves are float32, whatever is computed in.

A layer of the decoder is a unit of this, the vision tower another, whatever the number of pieces that it works in, and
the embeddings with the output layer a third. Also at the start no process but the first, which reads or draws the
weights, holds more than its part and a unit: they are dealt out unit by unit.
"""

from __future__ import annotations

import copy
import os
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from videonsa.config import TrainSettings, attention_differences, require
from videonsa.modeling.exchange import PATIENCE, SequenceParallel, ways


def join(settings: TrainSettings) -> PartialState:
    """Join the processes, where they are not yet; every process calls it. With `offload` they exchange what lies on the
    CPU as well as on their GPUs."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if settings.offload and several and torch.cuda.is_available() and not dist.is_initialized():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cuda:nccl,cpu:gloo", timeout=PATIENCE)
    # Told of the CPU, accelerate joins several processes there too; else each would train alone.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)


def shares_weights(settings: TrainSettings) -> bool:
    """Whether a process keeps a part of every weight. Every process calls it."""
    return settings.sharding == "full" and join(settings).num_processes > 1


def hollow(model: nn.Module) -> nn.Module:
    """A copy of the model without its weights (they are on torch's device "meta"), small enough to be sent."""
    known = {id(weight): nn.Parameter(weight.to("meta"), weight.requires_grad) for weight in model.parameters()}
    return copy.deepcopy(model, known)  # takes those for copied


@torch.no_grad()
def deal(unit: nn.Module, device: torch.device) -> None:
    """Give each process, on the device, the weights of a unit as the first process has them; not those that are shared
    out already. A weight that stands in two places stays one. Every process calls it."""
    dealt: dict[nn.Parameter, nn.Parameter] = {}
    for module in unit.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(weight, DTensor):
                continue
            if weight not in dealt:
                whole = torch.empty_like(weight, device=device) if weight.is_meta else weight.to(device)
                dist.broadcast(whole, 0)
                dealt[weight] = nn.Parameter(whole, weight.requires_grad)
            setattr(module, name, dealt[weight])


def shard(model: Any, device: torch.device, precision: str, offload: bool = False) -> None:
    """Leave of each weight this process's part, on the device; with `offload` in the CPU's memory, where AdamW then
    moves it. Every process calls it; the weights are the first one's, the others' may be hollow."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    gathered = torch.bfloat16 if precision == "bf16" else None  # as they are
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(gathered, reduce_dtype=torch.float32, cast_forward_inputs=False),
    }
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    for unit in (model.model.visual, *model.model.language_model.layers, model):
        deal(unit, device)
        fully_shard(unit, **options)
    if not offload:
        model.to(device)  # its buffers


def sequence_groups(model: Any, settings: TrainSettings) -> SequenceParallel | None:
    """Lay each sample over `sequence_parallel` processes whose ranks follow one another; every process calls it.

    Raises SettingsError for semantics by which a sample is to be seen whole.
    """
    degree, nsa = settings.sequence_parallel, settings.nsa
    if degree == 1:
        return None
    heads = model.config.text_config.num_key_value_heads
    released = nsa.attention == "nsa" and attention_differences(nsa.semantics)
    valid = f"a divisor of the {heads} key/value heads under semantics={nsa.semantics}, by which samples are seen whole"
    require(ways(degree, heads)[1] == 1 or not released, "sequence_parallel", degree, valid)
    mixed = sorted(set(released or ()) & {"head_layout", "importance_lse"})
    valid = f"1 under {' and '.join(mixed)}, by which heads of different groups meet"
    require(not mixed, "sequence_parallel", degree, valid)
    model.model.parallel = SequenceParallel.of(degree, heads)
    return model.model.parallel


class Joined:
    """Uses the tower and the gates in every process where one of them has a video, to no effect in those that have
    none: a unit's weights come together, and their gradients are summed, in all processes or in none.

    A weight that no process used keeps its gradient None, as in one process.
    """

    def __init__(self, model: Any, gates: bool) -> None:
        self.model, self.joins = model.model, False
        language_model = self.model.language_model
        language_model.register_forward_pre_hook(self._with_tower, with_kwargs=True)
        for layer in language_model.layers if gates else ():  # the layer's own hooks come when its weights are gone
            layer.self_attn.register_forward_hook(self._with_gates)

    def tell(self, batch: dict[str, Tensor], last: bool) -> bool:
        """Before a forward pass with this batch, the step's last one or not: settle what it uses, and whether it is the
        last one of every process. Every process calls it."""
        shown = "pixel_values_videos" in batch
        told = torch.tensor([shown, not last], dtype=torch.int32, device=batch["input_ids"].device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        shows, goes_on = told.tolist()
        self.joins = not shown and bool(shows)
        return not goes_on

    def _with_tower(self, language_model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not self.joins:
            return None
        tower, embeds = self.model.visual, named["inputs_embeds"]
        config = tower.config
        side = config.spatial_merge_size
        pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
        grid = torch.tensor([[1, side, side]], device=embeds.device)
        features = tower(embeds.new_zeros(side * side, pixels), grid_thw=grid).pooler_output
        return arguments, {**named, "inputs_embeds": embeds + 0.0 * features.sum().to(embeds.dtype)}

    def _with_gates(self, attention: nn.Module, arguments: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        if not self.joins:
            return None
        unused = [weight.sum() for name, weight in attention.named_parameters() if name.startswith("g_proj")]
        if not unused:
            return None
        return output[0] + 0.0 * torch.stack(unused).sum().to(output[0].dtype), *output[1:]


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights in the main process's memory; elsewhere nothing. Every process calls it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))
