"""The byte model with adapters: every linear layer takes one, the head too, which is the table of the bytes as well."""

from torch import nn

from learning_core.models.language import Language, LanguageConfig, language_of, linear_shapes
from learning_core.models.lora import attach, attached, frozen_weights, random_factors
from learning_core.models.weights import read, write_exact
from learning_core.params import Array, Params


def adapter_shapes(config: LanguageConfig, rank: int) -> dict[str, tuple[int, ...]]:
    """What is trained and federated: every B factor."""
    return {f"{path}.lora_B": (out, rank) for path, (out, _) in linear_shapes(config).items()}


def start_factors(config: LanguageConfig, rank: int, seed: int) -> dict[str, Array]:
    """The frozen A factors of a release."""
    return random_factors(linear_shapes(config), rank, seed)


def build_student(config: LanguageConfig, weights: Params, start: Params, alpha: float) -> Language:
    """A frozen base with adapters that change nothing yet. Raises Malformed when weights or factors do not fit."""
    model = language_of(config, weights)
    attach(model, linear_shapes(config), start, alpha)
    return model


def adapter_weights(model: Language) -> dict[str, nn.Parameter]:
    """The trainable tensors themselves, under their federated names and in a fixed order."""
    return attached(model, linear_shapes(model.config))


def read_adapter(model: Language) -> dict[str, Array]:
    return read(adapter_weights(model))


def write_adapter(model: Language, adapter: Params) -> None:
    """Inverse of `read_adapter`. Raises Malformed when names or shapes differ; then nothing has changed."""
    write_exact(adapter_weights(model), adapter)


def frozen_base(model: Language) -> Language:
    """The model under the adapters, as one of its own."""
    return language_of(model.config, frozen_weights(model))
