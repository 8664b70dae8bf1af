"""Quality and cost of the restoration networks: LIVE1 for the denoiser, Set5, Set14 and faces for the upscalers.

The upscalers are the bundled ones and, from the test data, two of other projects.

``python benchmarks/restoration.py [--pretrained DIR] [--also NAME ...] [--only denoiser|upscaler|cost]
[--json FILE]`` prints every figure beside its threshold.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import torch
from restoring.cost import cost_rows, upscaler_cost_rows
from restoring.denoiser import denoiser_rows
from restoring.images import published, upscaler
from restoring.upscaler import face_rows, upscaler_rows
from table import Row, finish, shared_data

from celebahq_builder.models.registry import load_network, read_registry

UPSCALERS = ("upscaler-psnr", "upscaler-psnr-large", "upscaler-gan")


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, help="folder of registry.toml, default the bundled one")
    parser.add_argument(
        "--also", nargs="+", default=[], metavar="NAME", help="more upscalers to measure: DIR/NAME or file:PATH"
    )
    parser.add_argument("--only", choices=("denoiser", "upscaler", "cost"), help="part of the table")
    parser.add_argument("--json", type=Path, help="also write the rows there, for a model card")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = shared_data()
    denoiser = load_network("denoiser", folder=asked.pretrained)
    known = read_registry(asked.pretrained)
    upscalers = {name: load_network(name, folder=asked.pretrained) for name in UPSCALERS if name in known}
    others = {} if asked.only == "denoiser" else published(data) | {name: upscaler(name) for name in asked.also}
    rows = []
    if asked.only in (None, "denoiser"):
        rows += denoiser_rows(denoiser, data, upscalers["upscaler-gan"])
    if asked.only in (None, "upscaler"):
        rows += [Row(f"{name}: weights in the registry", name in known, "", at_least=1) for name in UPSCALERS]
        rows += upscaler_rows(upscalers | others, data)
        rows += face_rows(denoiser, upscalers, data)
    if asked.only in (None, "cost"):
        rows += cost_rows(denoiser, upscalers["upscaler-gan"], data)
        rows += upscaler_cost_rows(upscalers | others)
    if asked.json:
        asked.json.write_text(json.dumps([row.mapping() for row in rows], indent=1))
    finish(rows)


if __name__ == "__main__":
    main()
