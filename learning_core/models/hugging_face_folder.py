"""A Hugging Face model from the bytes of its folder: nothing is fetched or unpickled, and no code in it is run."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from learning_core.errors import Malformed
from learning_core.models.weights import seeded

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", ".safetensors"


@dataclass(frozen=True, slots=True)
class Folder:
    """`module`: built, its weights not yet filled in; `weights`: those of the files, by name; `config`, `tokenizer`."""

    module: nn.Module
    weights: Mapping[str, Tensor]
    config: Any
    tokenizer: Any


def read_folder(files: Mapping[str, bytes], build: Callable[..., nn.Module], what: str) -> Folder:
    """What config.json, tokenizer.json and one or more .safetensors say, by file name. `what`: what it should be.

    `build`: `from_config` of one of transformers' auto classes; only architectures that transformers itself has. The
    global random state is left alone. Raises Malformed.
    """
    from safetensors.torch import load  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415  (these take seconds to import, and a plain module needs none)
    from transformers import AutoConfig  # noqa: PLC0415

    if missing := [name for name in (CONFIG, TOKENIZER) if name not in files]:
        raise Malformed(f"this is not the folder of a {what}: it has no {' and no '.join(missing)}")
    if not any(name.endswith(WEIGHTS) for name in files):
        raise Malformed(f"the {what}'s weights have to be in .safetensors files; convert them first")
    try:
        config = AutoConfig.for_model(**json.loads(files[CONFIG]))
        module = seeded(lambda: build(config, trust_remote_code=False), 0)  # with weights that are replaced at once
        weights = {name: value for file in files if file.endswith(WEIGHTS) for name, value in load(files[file]).items()}
    except Exception as error:  # a config of sizes that make no sense fails anywhere in transformers, as anything
        raise Malformed(f"the {what}'s files cannot be read: {error}") from error
    try:
        tokenizer = Tokenizer.from_str(files[TOKENIZER].decode())
    except Exception as error:  # tokenizers raises nothing narrower
        raise Malformed(f"the {what}'s tokenizer.json cannot be read: {error}") from error
    return Folder(module, weights, config, tokenizer)
