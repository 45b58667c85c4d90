"""Write the gRPC stubs of every .proto: `python -m protos.generate`; with `--check`, only say whether they fit."""

import sys
import tempfile
from pathlib import Path

PROTOS = ("dewfall", "offload")
STUBS = tuple(f"{name}_pb2{ending}" for name in PROTOS for ending in (".py", ".pyi", "_grpc.py"))


def generate(root: Path, out: Path) -> None:
    """Run protoc of grpcio-tools 1.81, whose code loads under protobuf 6 and 7 (newer tools need protobuf 7)."""
    from grpc_tools import protoc  # type: ignore[import-untyped]  # noqa: PLC0415

    arguments = ["protoc", f"-I{root}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*arguments, *(str(root / "protos" / f"{name}.proto") for name in PROTOS)]) != 0:
        raise SystemExit("the stubs could not be generated; see protoc's message above")


def main() -> None:
    """Write the stubs, or compare them."""
    root = Path(__file__).resolve().parent.parent
    if "--check" not in sys.argv[1:]:
        generate(root, root)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(root, Path(folder))
        odd = [
            name
            for name in STUBS
            if (Path(folder) / "protos" / name).read_bytes() != (root / "protos" / name).read_bytes()
        ]
    if odd:
        names = ", ".join(odd)
        raise SystemExit(f"{names} differ from protos/*.proto; run `python -m protos.generate` and commit the result")


if __name__ == "__main__":
    main()
