"""What ships: the public names, and the files in the wheel."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import distilbert_tf

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_there() -> None:
    for name in distilbert_tf.__all__:
        assert getattr(distilbert_tf, name) is not None
    assert set(dir(distilbert_tf)) == set(distilbert_tf.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'BertModel'"):
        _ = distilbert_tf.BertModel


def test_importing_the_package_alone_is_light() -> None:
    code = "import sys, distilbert_tf; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_another_keras_backend_is_refused() -> None:
    # No other backend is installed here, so Keras is made to claim one.
    code = (
        "import keras; keras.backend.backend = lambda: 'torch'; import distilbert_tf.models.layers"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "its backend is 'torch': set KERAS_BACKEND=tensorflow" in result.stderr


def test_the_wheel_holds_code_and_data(tmp_path: Path) -> None:
    build = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "setup.py", "pyproject.toml", "README.md", "distilbert_tf", "export"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if files.returncode:
        pytest.skip(f"needs a git checkout, to copy what ships: {files.stderr.strip()}")
    for name in files.stdout.splitlines():
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(build)], check=True)
    (wheel,) = tmp_path.glob("distilbert_tf-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        name.removeprefix("export/")
        for name in files.stdout.splitlines()
        if re.match(r"(distilbert_tf|export/distilbert_serving)/", name)
    }
    assert shipped <= names
    for name in (
        "tokenizers/unicode_table.npz",
        "py.typed",
        "data/demo_data/sst2/train.tsv",
        "cli.py",
    ):
        assert f"distilbert_tf/{name}" in names
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith("info")} == {
        "distilbert_tf",
        "distilbert_serving",
    }
    metadata = zipfile.ZipFile(wheel).read(
        next(name for name in names if name.endswith("METADATA"))
    )
    for extra in (b"demo", b"gpu", b"notebooks", b"parity", b"parquet", b"test"):
        assert b"Provides-Extra: " + extra + b"\n" in metadata
