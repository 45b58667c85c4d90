"""The samples that may leave this device: noised once, paid for once, and then the same for every job.

Noise is drawn once for a sample and never again (as in RAPPOR's permanent response, arXiv:1407.6981), so that sending
it twice tells no more than sending it once. They are written before they are paid for and paid for before they leave:
killed in between, the device has drawn noise or paid for nothing, and never sent what it has not paid for.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import Offload, Privacy
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.offload import affordable
from learning_core.errors import Malformed, StateError
from learning_core.federation.accountant import Spending
from learning_core.federation.local_noise import cost, noised
from learning_core.samples import Batch
from protos.codec import decode_tensors, encode_tensors
from protos.state_folder import write_atomically

NOISED = "noised.safetensors"
NOTHING_LEFT = "no noised sample fits into what is left of this device's privacy budget, and none was paid for before"


class NoisedSamples:
    """One set of samples for one pair of clip_norm and noise_multiplier. Saved as a file and the journal's receipt.

    `fresh` makes the noise's generator; it has to come from a secret of the machine but in tests.
    """

    def __init__(
        self,
        folder: Path,
        journal: SqliteJournal,
        settings: Offload,
        privacy: Privacy,
        fresh: Callable[[], np.random.Generator] = np.random.default_rng,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._settings = settings
        self._privacy = privacy
        self._fresh = fresh

    def room(self, ahead: Sequence[Spending] = ()) -> int:
        """How many can leave: those paid for, and those that could be paid for now."""
        _, have, _ = self._load(None)
        return len(have) + self._affordable(self._settings.max_samples - len(have), ahead)

    def of(self, samples: Batch, num_conditions: int, ahead: Sequence[Spending]) -> Batch:
        """All that may leave, with as many of `samples` added as there is room and budget for beside `ahead`.

        Raises StateError. Empty when there is neither.
        """
        set_, have, keys = self._load(samples.features.shape[1:])
        known = {key.tobytes() for key in keys}
        new = [row for row in range(len(samples)) if _key(samples, row).tobytes() not in known]
        rng = self._fresh()
        count = self._affordable(min(len(new), self._settings.max_samples - len(have)), ahead)
        if count <= 0:
            return have
        rows = np.sort(rng.permutation(np.array(new))[:count])
        chosen = Batch(samples.features[rows], samples.conditions[rows])
        drawn = noised(chosen, num_conditions, self._settings.clip_norm, self._settings.noise_multiplier, rng)
        keys = np.concatenate([keys, np.stack([_key(samples, row) for row in rows])])
        features = np.concatenate([have.features, drawn.features])
        have = Batch(features, np.concatenate([have.conditions, drawn.conditions]))
        self._folder.mkdir(parents=True, exist_ok=True)
        set_number = np.frombuffer(bytes.fromhex(set_), np.uint8)
        tensors: dict[str, NDArray[Any]] = {
            "features": have.features,
            "conditions": have.conditions,
            "keys": keys,
            "set": set_number,
            "setting": self._setting(),
        }
        write_atomically(self._folder / NOISED, encode_tensors(tensors))
        self._journal.pay(set_, len(have), cost(count, self._settings.noise_multiplier))
        return have

    def _affordable(self, wanted: int, ahead: Sequence[Spending]) -> int:
        spendings = [*self._journal.spendings(), *ahead]
        return affordable(max(0, wanted), self._settings.noise_multiplier, spendings, self._privacy)

    def _setting(self) -> NDArray[np.float32]:
        return np.array([self._settings.clip_norm, self._settings.noise_multiplier], np.float32)

    def _load(self, shape: tuple[int, ...] | None) -> tuple[str, Batch, NDArray[np.uint8]]:
        """The set's name, what of it is paid for, and whose noise it is: keys [N, 32]; a new set if there is none."""
        nothing = Batch(np.zeros((0, *(shape or ())), np.float32), np.zeros(0, np.int64))
        fresh = os.urandom(16).hex(), nothing, np.zeros((0, 32), np.uint8)
        try:
            tensors = decode_tensors((self._folder / NOISED).read_bytes())
            features, conditions, keys = (tensors[name] for name in ("features", "conditions", "keys"))
            set_, setting = tensors["set"].tobytes().hex(), tensors["setting"]
        except (FileNotFoundError, Malformed, KeyError):
            return fresh
        except OSError as error:
            raise StateError(f"{self._folder / NOISED} cannot be read ({error.strerror}); check its disk") from error
        paid_for, count = self._journal.paid()
        fits = shape is None or features.shape[1:] == shape
        if set_ != paid_for or not fits or not np.array_equal(setting, self._setting()):
            return fresh
        return set_, Batch(features[:count], conditions[:count]), keys[:count]


def _key(samples: Batch, row: int) -> NDArray[np.uint8]:
    content = samples.features[row].tobytes() + int(samples.conditions[row]).to_bytes(8, "little", signed=True)
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
