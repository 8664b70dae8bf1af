"""Compare the results of two checkouts byte for byte: build, exports, import, training, metrics.

    python benchmarks/golden.py record OUT.json            # results of this checkout
    python benchmarks/golden.py record OUT.json --checkout OTHER
    python benchmarks/golden.py compare A.json B.json      # exit code 1 if any result differs

A record holds SHA-256 digests and figures. The last bits of a network depend on the processor and on the version of
torch, so both records must be made on the same machine. The build of 24 real photos needs the folder that
CELEBAHQ_SHARED names (default ../shared); without it, only the embedded sample is built.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py

ROOT = Path(__file__).resolve().parents[1]
EXPORTS = {"tfrecord": "", "stylegan-zip": ".zip", "images": "", "webdataset": "", "parquet": ""}
TINY_TRAINING = """
task = "progan"
seed = 1
[net]
resolution = 16
latent = 32
channels_base = 128
channels_max = 32
[schedule]
total_kimg = 0.6
train_kimg = 0.1
fade_kimg = 0.1
minibatch = 8
[tick]
kimg = 0.2
checkpoint_ticks = 1
grid_ticks = 1
grid = [4, 2]
"""


class Recorder:
    """Runs commands of a checkout and records what they made."""

    def __init__(self, checkout: Path, work: Path) -> None:
        self.checkout, self.work = checkout, work
        self.results: dict[str, str] = {}

    def celebahq(self, *arguments: object) -> None:
        """Run a command of the checkout; its output is shown only if it fails."""
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        command = [sys.executable, "-m", "celebahq_builder", *map(str, arguments)]
        print("celebahq", *map(str, arguments), flush=True)
        ended = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            sys.exit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")

    def levels(self, name: str, path: Path) -> None:
        """Record the stored images of each level, and the columns that every version has."""
        with h5py.File(path) as file:
            for key in sorted(key for key in file if key.startswith("data")):
                digest = hashlib.sha256()
                for image in file[key]:
                    digest.update(image.tobytes())
                self.results[f"{name}/{key}"] = digest.hexdigest()

    def selection(self, name: str, path: Path) -> None:
        """Record rank, file and score of the selected photos."""
        with path.open(newline="") as file:
            rows = [(row["rank"], row["file"], row["score"]) for row in csv.DictReader(file)]
        self.results[f"{name}/selection.csv"] = _digest(json.dumps(rows).encode())

    def tree(self, name: str, path: Path) -> None:
        """Record every file of an export."""
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file():
                own = file.relative_to(path).as_posix() if file != path else ""
                self.results[f"{name}/{own}"] = _digest(file.read_bytes())

    def build(self, name: str, *arguments: object) -> Path:
        """Build a data set; record its levels and its selection; return the HDF5 file."""
        out = self.work / name
        self.celebahq("build", *arguments, "--out", out)
        [path] = out.glob("*.h5")
        self.levels(name, path)
        self.selection(name, out / "selection.csv")
        return path


def record(checkout: Path) -> dict[str, str]:
    """Return the digests of everything that the commands of a checkout make."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        to = Recorder(checkout, work)
        sample = checkout / "tests" / "sample" / "celeba"
        demo = to.build("demo", "--celeba-root", sample, "--recipe", checkout / "pipelines" / "demo.toml")
        faces = Path(os.environ.get("CELEBAHQ_SHARED", ROOT.parent / "shared")).resolve() / "data" / "faces"
        if faces.is_dir():
            to.build("faces-paper", "--celeba-root", faces, "--limit", 24, "--resolution", 256, "--keep", 20)
            exact = work / "exact.toml"
            exact.write_text('method = "exact"\nresolution = 256\n[select]\nkeep = 20\n')
            to.build("faces-exact", "--celeba-root", faces, "--limit", 24, "--recipe", exact)
        for kind, suffix in EXPORTS.items():
            target = work / f"demo-{kind}{suffix}"
            to.celebahq("export", demo, "--to", kind, "--out", target, "--resolution", 128)
            to.tree(f"export/{kind}", target)
        for kind, suffix in EXPORTS.items():
            if kind != "tfrecord":
                copy = work / f"again-{kind}.h5"
                to.celebahq("import", work / f"demo-{kind}{suffix}", "--out", copy)
                to.levels(f"import/{kind}", copy)
        recipe = work / "tiny.toml"
        recipe.write_text(TINY_TRAINING)
        to.celebahq("train", demo, "--out", work / "run", "--recipe", recipe, "--threads", 1, "--device", "cpu")
        to.celebahq("generate", work / "run" / "generator.safetensors", "--out", work / "made.h5", "--num", 32)
        to.levels("train/generated", work / "made.h5")
        to.celebahq("evaluate", work / "made.h5", "--against", demo, "--metrics", "swd,ms-ssim", "--num", 10,
                    "--resolution", 16, "--json", work / "scores.json")  # fmt: skip
        to.results["evaluate/swd,ms-ssim"] = json.dumps(_figures(json.loads((work / "scores.json").read_text())))
        return to.results


def _figures(values: object) -> list[float]:
    """Return all numbers with a fraction in nested JSON, in order."""
    if isinstance(values, dict):
        return [one for key in sorted(values) for one in _figures(values[key])]
    if isinstance(values, list):
        return [one for value in values for one in _figures(value)]
    return [values] if isinstance(values, float) else []


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compare(a: Path, b: Path) -> int:
    """Print which results of two records differ; return how many."""
    first, second = json.loads(a.read_text()), json.loads(b.read_text())
    different = [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
    for key in different:
        print(f"differs: {key}: {first.get(key, 'missing')} / {second.get(key, 'missing')}")
    print(f"{len(different)} of {len({*first, *second})} results differ")
    return len(different)


def main() -> None:
    """Record the results of a checkout, or compare two records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--checkout", type=Path, default=ROOT)
    comparing = commands.add_parser("compare")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "record":
        results = record(arguments.checkout.resolve())
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    elif compare(arguments.a, arguments.b):
        sys.exit(1)


if __name__ == "__main__":
    main()
