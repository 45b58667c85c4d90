"""Small images from noise: a class-conditional transformer that learns a straight flow.

Rectified flow, Liu et al. 2022 (arXiv:2209.03003): x_t = (1-t) noise + t image, and the model learns image - noise.
Transformer with modulated blocks, Peebles and Xie 2022 (arXiv:2212.09748); one shared modulation for all blocks plus
a table per block, Chen et al. 2023 (arXiv:2310.00426). Images are in -1..1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from torch import Generator, Tensor, nn

from learning_core.errors import ConfigError
from learning_core.models.blocks import MLP_RATIO, block_shapes
from learning_core.models.weights import load_weights, seeded
from learning_core.params import Params

LABEL_DROPOUT = 0.1  # share of samples shown without their label, so that guidance has something to guide away from
TIME_SCALE = 1000.0
LONGEST_PERIOD = 10_000.0
AT_ONCE = 500  # images in one piece
EMBED_TIME = 0.5  # half way: of an almost clean image (0.9) the features say more of its pixels, less of its class


@dataclass(frozen=True, slots=True)
class FlowImageConfig:
    """Sizes. `num_conditions` counts the labels a release can speak of, known or not; one more row means "no label"."""

    side: int = 8
    channels: int = 1
    patch: int = 2
    width: int = 64
    depth: int = 3
    heads: int = 4
    num_conditions: int = 10

    def __post_init__(self) -> None:
        sizes = (self.side, self.channels, self.patch, self.width, self.depth, self.heads, self.num_conditions)
        if min(sizes) < 1:
            raise ConfigError(f"every size of the model must be at least 1: {self}")
        if self.side % self.patch:
            raise ConfigError(f"side {self.side} must be a multiple of patch {self.patch}")
        if self.width % self.heads or self.width % 2:
            raise ConfigError(f"width {self.width} must be even and a multiple of heads {self.heads}")

    @property
    def tokens(self) -> int:
        return (self.side // self.patch) ** 2

    @property
    def patch_values(self) -> int:
        return self.patch * self.patch * self.channels

    @property
    def null_condition(self) -> int:
        return self.num_conditions


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition. tokens: [B, T, d]; modulation: [B, 6, d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)
        self.table = nn.Parameter(torch.zeros(6, width))

    def forward(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (modulation + self.table).unsqueeze(2).unbind(1)
        tokens = tokens + gate_a * self.attend(modulate(tokens, shift_a, scale_a))
        hidden: Tensor = self.fc1(modulate(tokens, shift_m, scale_m))
        update: Tensor = self.fc2(F.gelu(hidden))
        return tokens + gate_m * update

    def attend(self, tokens: Tensor) -> Tensor:
        rows, length, width = tokens.shape
        packed: Tensor = self.qkv(tokens)
        query, key, value = packed.view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.proj(mixed.transpose(1, 2).reshape(rows, length, width))
        return joined


class FlowImage(nn.Module):
    """The velocity field. Submodule names are part of the adapter format: adapters are addressed by them."""

    def __init__(self, config: FlowImageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patchify = nn.Linear(config.patch_values, width)
        self.position = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.label: nn.Module = nn.Embedding(config.num_conditions + 1, width)
        self.tm = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.ada = nn.Linear(width, 6 * width)
        self.adao = nn.Linear(width, 2 * width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.out = nn.Linear(width, config.patch_values)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("frequencies", time_frequencies(width), persistent=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Velocity [B, C, H, W] at x: [B, C, H, W], t: [B] in 0..1, y: [B] int64 (`null_condition`: no label)."""
        condition = self.condition(t, y)
        shift, scale = self.adao(condition).view(-1, 2, 1, self.config.width).unbind(1)
        velocity: Tensor = self.out(modulate(self.hidden(x, condition), shift, scale))
        return join_patches(velocity, self.config)

    def embed(self, x: Tensor) -> Tensor:
        """What an image is about: last hidden tokens, averaged. x: [B, C, H, W] -> [B, d]."""
        time = torch.full((len(x),), EMBED_TIME)
        null = torch.full((len(x),), self.config.null_condition)
        return self.hidden(x, self.condition(time, null)).mean(dim=1)

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        """Time and label as one activated vector [B, d]."""
        angles = t[:, None] * self.get_buffer("frequencies")
        timed: Tensor = self.tm(torch.cat((angles.cos(), angles.sin()), dim=1))
        labelled: Tensor = self.label(y)
        return F.silu(timed + labelled)

    def hidden(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens after the last block, [B, T, d]."""
        tokens: Tensor = self.patchify(split_patches(x, self.config)) + self.position
        modulation: Tensor = self.ada(condition).view(-1, 6, self.config.width)
        for block in self.blocks:
            tokens = block(tokens, modulation)
        return tokens


def linear_shapes(config: FlowImageConfig) -> dict[str, tuple[int, int]]:
    """The linear layers by path with their (out, in) sizes, but for the two that touch pixels."""
    width = config.width
    square = (width, width)
    modulation = {"ada": (6 * width, width), "adao": (2 * width, width), "tm.0": square, "tm.2": square}
    return block_shapes(width, config.depth) | modulation


def new_flow_image(config: FlowImageConfig, seed: int) -> FlowImage:
    """An untrained model; equal seeds give equal weights, and the global random state is left alone."""
    return seeded(lambda: FlowImage(config), seed)


def flow_image_of(config: FlowImageConfig, weights: Params) -> FlowImage:
    """A model with given weights, ready to generate. Raises Malformed when they are another model's."""
    model = new_flow_image(config, seed=0)
    load_weights(model, weights)
    return model.eval()


class FlowPoints(NamedTuple):
    """Places in the flow and the velocity that is wanted there. x, velocity: [B, C, H, W]; t: [B]; y: [B] int64."""

    x: Tensor
    t: Tensor
    y: Tensor
    velocity: Tensor


def noised(x: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images on their way from noise: (x_t, t, image - noise), with more times in the middle than at the ends."""
    noise = torch.randn(x.shape, generator=generator)
    t = torch.randn(len(x), generator=generator).sigmoid()
    return torch.lerp(noise, x, t[:, None, None, None]), t, x - noise


def flow_points(
    x: Tensor, y: Tensor, null_condition: int, generator: Generator, label_dropout: float = LABEL_DROPOUT
) -> FlowPoints:
    """What flow matching asks of a model on images x: [B, C, H, W] with labels y: [B]."""
    x_t, t, velocity = noised(x, generator)
    dropped = torch.rand(len(y), generator=generator) < label_dropout
    return FlowPoints(x_t, t, torch.where(dropped, null_condition, y), velocity)


def flow_loss(model: FlowImage, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """Mean squared error of the velocity, a scalar. x: [B, C, H, W] in -1..1; y: [B] int64."""
    return points_loss(model, flow_points(x, y, model.config.null_condition, generator))


def points_loss(model: FlowImage, points: FlowPoints) -> Tensor:
    return F.mse_loss(model(points.x, points.t, points.y), points.velocity)


@torch.no_grad()
def generate(model: FlowImage, noise: Tensor, conditions: Tensor, steps: int, guidance: float) -> Tensor:
    """Images [B, C, H, W] from noise of that shape, by Euler's method; conditions: [B] int64.

    Guidance 1 follows the label and costs one pass a step; more of it moves away from "no label" and costs two
    (classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598). Values may leave -1..1 a little.
    """
    x = noise
    null = torch.full_like(conditions, model.config.null_condition)
    for step in range(steps):
        t = torch.full((len(x),), step / steps)
        if guidance == 1.0:
            velocity = model(x, t, conditions)
        else:
            both = model(torch.cat((x, x)), torch.cat((t, t)), torch.cat((conditions, null)))
            with_label, without = both.chunk(2)
            velocity = torch.lerp(without, with_label, guidance)
        x = x + velocity / steps
    return x


def generate_in_pieces(model: FlowImage, noise: Tensor, conditions: Tensor, steps: int, guidance: float) -> Tensor:
    """The same for any number of images: no more memory than some hundreds of them take."""
    pieces = zip(torch.split(noise, AT_ONCE), torch.split(conditions, AT_ONCE), strict=True)
    return torch.cat([generate(model, z, y, steps, guidance) for z, y in pieces])


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised tokens [B, T, d], scaled around 1 and shifted by [B, 1, d]."""
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:]), 1 + scale)


def split_patches(x: Tensor, config: FlowImageConfig) -> Tensor:
    """[B, C, H, W] -> [B, T, patch * patch * C], row by row."""
    grid, patch = config.side // config.patch, config.patch
    cut = x.reshape(-1, config.channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(-1, config.tokens, config.patch_values)


def join_patches(tokens: Tensor, config: FlowImageConfig) -> Tensor:
    """Inverse of `split_patches`."""
    grid, patch = config.side // config.patch, config.patch
    cut = tokens.reshape(-1, grid, grid, config.channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(-1, config.channels, config.side, config.side)


def time_frequencies(width: int) -> Tensor:
    """Angular frequencies [width / 2] of the sinusoidal code of t in 0..1."""
    half = width // 2
    return TIME_SCALE * torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half) / half)
