"""What a transformers of Qwen2.5-VL's own time computes. Run by its Python: stock.py CHECKPOINT INPUTS.npz OUTPUTS.npz

Imports nothing of ours. INPUTS holds a model's arguments by name. OUTPUTS gets its positions, the logits of the last
LAST tokens, NEW greedy tokens and the version. 4.51.3 counts the fractions of a second, 4.57.1 cuts them off.
Where CHECKPOINT has no weights, random ones are drawn and written there. Frames may stand for pixels: INPUTS of `text`,
`frames`, `fps` and `size` goes through the processor's classes, and OUTPUTS gets what they make too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

LAST, NEW = 24, 8


def load(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    """The checkpoint in float32; transformers before 4.52 wants the text model's fields beside the others."""
    written = json.loads((folder / "config.json").read_text())
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    if isinstance(config.text_config, dict):
        text = {name: value for name, value in written.pop("text_config").items() if name != "model_type"}
        config = Qwen2_5_VLConfig(**{**text, **written})
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, config=config, torch_dtype=torch.float32).eval()


def process(folder: Path, given: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Inputs of one prompt with one video, by the processor's classes of this version."""
    from transformers import Qwen2_5_VLProcessor, Qwen2TokenizerFast, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = dict(zip(("shortest_edge", "longest_edge"), given["size"].tolist(), strict=True))
    sizes = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "size": size}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=Qwen2TokenizerFast(tokenizer_file=str(folder / "tokenizer.json")),
        video_processor=Qwen2VLVideoProcessor(**sizes),
    )
    return processor(
        text=[str(given["text"])],
        videos=[torch.from_numpy(given["frames"]).permute(0, 3, 1, 2)],
        fps=float(given["fps"]),
        do_sample_frames=False,
        return_tensors="pt",
    ).data


@torch.no_grad()
def main(checkpoint: str, inputs: str, outputs: str) -> None:
    model = load(Path(checkpoint))
    given = dict(np.load(inputs))
    if "frames" in given:
        arguments = process(Path(checkpoint), given)
    else:
        arguments = {name: torch.from_numpy(array) for name, array in given.items()}
    seconds = arguments.get("second_per_grid_ts")
    grids = {name: value for name, value in arguments.items() if name.endswith("grid_thw")}
    index = getattr(model.model, "get_rope_index", None) or model.get_rope_index  # on the model since 4.52
    positions, _ = index(
        arguments["input_ids"], **grids, second_per_grid_ts=seconds, attention_mask=arguments["attention_mask"]
    )
    logits = model(**arguments).logits[:, -LAST:]
    generated = model.generate(
        **arguments, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=1
    )
    made = {name: np.asarray(value) for name, value in arguments.items()} if "frames" in given else {}
    np.savez_compressed(
        outputs,
        **made,
        position_ids=positions.numpy(),
        logits=logits.numpy(),
        generated=generated[:, -NEW:].numpy(),
        transformers=transformers.__version__,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
