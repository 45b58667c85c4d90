"""A stand-in for the folder of a Hugging Face encoder: BERT's build with random weights and nine words."""

import json

import torch
from safetensors.torch import save

WORDS = ["[PAD]", "[UNK]", "turn", "on", "off", "the", "light", "please", "now"]
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
    "pad_token_id": 0,
}
TEXTS = ["turn on the light please now", "off", "the light", "turn off the light"]


def tiny_files() -> dict[str, bytes]:
    """The folder of an encoder with random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModel

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=12)  # as some files ask for; texts are padded no further than they have to be
    torch.manual_seed(0)
    module = AutoModel.from_config(AutoConfig.for_model(**CONFIG))
    weights = {name: value.contiguous() for name, value in module.state_dict().items()}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
        "model.safetensors": save(weights),
    }
