"""Inception loads one file only, resizes images as TensorFlow 1 did, and treats each image independently."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from celebahq_builder.errors import WeightsError
from celebahq_builder.metrics import inception as inception_module
from celebahq_builder.metrics.inception import MINIBATCH, Inception
from celebahq_builder.storage import sha256
from tests.metrics.inception_file import write_random
from tests.reference.tf_resize import resize_bilinear


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    return path, write_random(path)


@pytest.fixture(scope="module")
def tensors(weights: tuple[Path, str]) -> dict[str, torch.Tensor]:
    return torch.load(weights[0], weights_only=True)


@pytest.fixture(scope="module")
def inception(weights: tuple[Path, str]) -> Inception:
    return Inception(weights[0], sha256=weights[1])


def images(count: int, side: int = 40, channels: int = 3) -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    return torch.from_numpy(drawn)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 40), (301, 310), (1, 1)])
def test_images_are_resized_as_in_tensorflow_1(inception: Inception, height: int, width: int) -> None:
    seen: list[torch.Tensor] = []
    image = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    hook = inception._net.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    inception(torch.from_numpy(image)[None])
    hook.remove()
    expected = (resize_bilinear(image.astype(float), 299) - 128) / 128
    assert np.abs(seen[0][0].double().numpy() - expected).max() < 2e-4  # positions are float32


def test_features_do_not_depend_on_the_batch(inception: Inception) -> None:
    some = images(5)
    together = inception(some)
    assert together.pool3.shape == (5, 2048)
    assert together.logits.shape == (5, 1008)
    assert together.pool3.dtype == together.logits.dtype == torch.float32
    assert together.pool3.std(dim=0).mean() > 1e-3  # images differ in them
    for i in range(5):
        alone = inception(some[i : i + 1])
        assert torch.allclose(alone.pool3, together.pool3[i : i + 1], rtol=1e-4, atol=1e-5)
        assert torch.allclose(alone.logits, together.logits[i : i + 1], rtol=1e-4, atol=1e-4)


def test_several_minibatches(inception: Inception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MINIBATCH > 3
    monkeypatch.setattr("celebahq_builder.metrics.inception.MINIBATCH", 2)
    some = images(3)
    assert torch.allclose(inception(some).pool3[2], inception(some[2:]).pool3[0], rtol=1e-4, atol=1e-5)


def test_logits_are_those_without_bias(inception: Inception, tensors: dict[str, torch.Tensor]) -> None:
    pool3, logits = inception(images(2))
    assert torch.allclose(logits, pool3 @ tensors["fc.weight"].T, rtol=1e-4, atol=1e-4)
    assert tensors["fc.bias"].abs().max() > 1


def test_grey_is_repeated_to_rgb(inception: Inception) -> None:
    grey = images(1, channels=1)
    assert torch.equal(inception(grey).pool3, inception(grey.repeat(1, 3, 1, 1)).pool3)


def test_no_images_and_bad_images(inception: Inception) -> None:
    assert inception(images(0)).pool3.shape == (0, 2048)
    with pytest.raises(ValueError, match=r"uint8 \[n, 3 or 1, H, W\], got torch.float32 \[1, 3, 8, 8\]"):
        inception(torch.zeros(1, 3, 8, 8))


def test_name_and_hash(inception: Inception, weights: tuple[Path, str]) -> None:
    assert inception.name.startswith("TensorFlow Inception 2015-12-05 (torch-fidelity 0.")
    assert inception.sha256 == weights[1]


def test_only_the_weights_of_the_literature_are_accepted(weights: tuple[Path, str], tmp_path: Path) -> None:
    assert inception_module.WEIGHTS_FILE.endswith(f"{inception_module.WEIGHTS_SHA256[:8]}.pth")
    with pytest.raises(
        WeightsError, match=rf"SHA-256 is {weights[1]}, expected 6726825d\w{{56}}; it is another file or corrupt"
    ):
        Inception(weights[0])
    with pytest.raises(WeightsError, match="none.pth cannot be read: No such file or directory; give the path of"):
        Inception(tmp_path / "none.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match="pipe.pth cannot be read: a named pipe, not a regular file; give the path"):
        Inception(tmp_path / "pipe.pth")


def test_the_cache_is_used(weights: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    target = inception_module.weights_cache_path()
    assert target == tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    target.parent.mkdir(parents=True)
    target.symlink_to(weights[0])
    assert Inception(sha256=weights[1]).sha256 == weights[1]


def test_a_failed_download_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(
        WeightsError, match=r"cannot be downloaded from https.*give its path as `inception`, or put it into "
    ) as error:
        inception_module.locate_weights(None)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.pth"))


def test_other_files_are_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def refused(data: bytes) -> str:
        path = tmp_path / "file.pth"
        path.write_bytes(data)
        with pytest.raises(WeightsError) as error:
            Inception(path, sha256=sha256(data))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "are not a file of torch tensors" in refused(b"no pickle")
    assert "are not a file of torch tensors" in refused(
        pickle.dumps({"weight": Path("x")})
    )  # an object is not unpickled
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "hold a list" in refused((tmp_path / "list.pth").read_bytes())
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert "belong to another network: Missing key" in refused((tmp_path / "other.pth").read_bytes())
    torch.save(tensors | {"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "classes.pth")
    assert "fc.weight" in refused((tmp_path / "classes.pth").read_bytes())


IMPORT = """
import sys
from celebahq_builder.metrics.inception import import_torch_fidelity
import_torch_fidelity("feature_extractor_inceptionv3")
print([name for name in sys.modules if name.split(".")[0] in ("torch_fidelity", "torchvision")])
"""


def test_the_import_leaves_nothing_behind() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_a_missing_package_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_module, "PACKAGE", "torch_fidelity_that_is_not_there")
    with pytest.raises(WeightsError, match=r"torch-fidelity, which is not installed; pip install '.\[inc"):
        inception_module.import_torch_fidelity("feature_extractor_inceptionv3")
