"""What the transformers here share: the linear layers of a block, and how wide its MLP is."""

MLP_RATIO = 4


def block_shapes(width: int, depth: int) -> dict[str, tuple[int, int]]:
    """The linear layers inside the blocks, by path, with their (out, in) sizes."""
    block = {
        "qkv": (3 * width, width),
        "proj": (width, width),
        "fc1": (MLP_RATIO * width, width),
        "fc2": (width, MLP_RATIO * width),
    }
    return {f"blocks.{index}.{name}": size for index in range(depth) for name, size in block.items()}
