"""A small classifier that says what a generated image shows, and in which features to compare image sets."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn

from learning_core.models.weights import as_tensor, seeded
from learning_core.samples import Batch

FEATURES = 64
EPOCHS = 20
BATCH = 64
LEARNING_RATE = 3e-3
AT_ONCE = 500  # images: more of them together only take more memory
LEAST_SPREAD = 1e-3  # a feature that never varies must not be divided by (almost) nothing


class Judge(nn.Module):
    """Two convolutions and two layers; features leave it z-scored, so distances between them mean something."""

    def __init__(self, channels: int, side: int, num_conditions: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(channels, 16, 3, padding=1)
        self.far = nn.Conv2d(16, 32, 3, padding=1)
        self.features = nn.Linear(32 * (side // 2) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, num_conditions)
        self.register_buffer("feature_mean", torch.zeros(FEATURES))
        self.register_buffer("feature_spread", torch.ones(FEATURES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, C, H, W] in -1..1 -> logits [B, num_conditions], features [B, 64]."""
        raw = self.raw_features(x)
        logits: Tensor = self.head(raw)
        return logits, (raw - self.get_buffer("feature_mean")) / self.get_buffer("feature_spread")

    def raw_features(self, x: Tensor) -> Tensor:
        seen = F.gelu(self.far(F.gelu(self.near(x))))
        flat: Tensor = self.features(F.max_pool2d(seen, 2).flatten(1))
        return F.gelu(flat)  # not ReLU: a unit that died would have no spread to divide by


def train_judge(samples: Batch, num_conditions: int, seed: int, epochs: int = EPOCHS) -> Judge:
    """Learn to tell conditions apart from real images [N, C, H, W], shifted a little to make the judge robust.

    Some 500 steps are enough: the default for 1,500 images, a few epochs for ten thousand.
    """
    images, labels = as_tensor(samples.features), torch.tensor(samples.conditions)
    generator = Generator().manual_seed(seed)
    judge = seeded(lambda: Judge(images.shape[1], images.shape[2], num_conditions), seed)
    steps = epochs * -(-len(labels) // BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), LEARNING_RATE, weight_decay=1e-2, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(labels), generator=generator), BATCH):
            loss = F.cross_entropy(judge(jittered(images[chosen], generator))[0], labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            rate.step()
    with torch.no_grad():
        raw = torch.cat([judge.raw_features(piece) for piece in torch.split(images, AT_ONCE)])
        judge.get_buffer("feature_mean").copy_(raw.mean(dim=0))
        judge.get_buffer("feature_spread").copy_(raw.std(dim=0).clamp_min(LEAST_SPREAD))
    return judge.eval()


def jittered(x: Tensor, generator: Generator) -> Tensor:
    """Images [B, C, H, W], each moved by up to one pixel in either direction, with a little noise."""
    rows, _, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1), value=-1.0)
    down = torch.randint(3, (rows, 1, 1), generator=generator) + torch.arange(height)[:, None]
    right = torch.randint(3, (rows, 1, 1), generator=generator) + torch.arange(width)
    moved = padded[torch.arange(rows)[:, None, None], :, down, right].permute(0, 3, 1, 2)
    return moved + 0.1 * torch.randn(x.shape, generator=generator)
