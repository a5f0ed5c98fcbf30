"""What ships: the public names, and the files in the wheel."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from processes import finish

import distilbert_tf
from distilbert_tf.training.launcher import command_line

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_there() -> None:
    for name in distilbert_tf.__all__:
        assert getattr(distilbert_tf, name) is not None
    assert set(dir(distilbert_tf)) == set(distilbert_tf.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'BertModel'"):
        _ = distilbert_tf.BertModel


def run(*words: str, code: int = 0, cwd: Path = ROOT, **environment: str) -> tuple[str, str]:
    """Runs Python to its end, and returns what it writes."""
    process = subprocess.Popen(
        [sys.executable, *words], cwd=cwd, env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return finish(process, code, timeout_s=120.0)


def test_importing_the_package_alone_is_light() -> None:
    run("-c", "import sys, distilbert_tf; sys.exit('tensorflow' in sys.modules)")


def test_another_keras_backend_is_refused() -> None:
    # No other backend is installed here, so Keras is made to claim one.
    code = (
        "import keras; keras.backend.backend = lambda: 'torch'; import distilbert_tf.models.layers"
    )
    _, errors = run("-c", code, code=1)
    assert "its backend is 'torch': set KERAS_BACKEND=tensorflow" in errors


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the files that git knows."""
    directory = tmp_path_factory.mktemp("wheel")
    build = directory / "source"
    for name in shipped_files("setup.py", "pyproject.toml", "README.md"):
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_bytes((ROOT / name).read_bytes())
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory))
    run("-m", "pip", "wheel", *options, str(build))
    (wheel,) = directory.glob("distilbert_tf-*.whl")
    return wheel


def shipped_files(*others: str) -> list[str]:
    files = subprocess.run(
        ["git", "ls-files", "distilbert_tf", "export", *others],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if files.returncode:
        pytest.skip(f"needs a git checkout, to copy what ships: {files.stderr.strip()}")
    return files.stdout.splitlines()


def test_the_wheel_holds_code_and_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        name.removeprefix("export/")
        for name in shipped_files()
        if re.match(r"(distilbert_tf|export/distilbert_serving)/", name)
    }
    assert shipped <= names
    for name in ("tokenizers/unicode_table.npz", "py.typed", "data/demo_data/sst2/train.tsv"):
        assert f"distilbert_tf/{name}" in names
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith("info")} == {
        "distilbert_tf",
        "distilbert_serving",
    }
    metadata = zipfile.ZipFile(wheel).read(
        next(name for name in names if name.endswith("METADATA"))
    )
    for extra in (b"beam", b"demo", b"gpu", b"notebooks", b"parity", b"parquet", b"test"):
        assert b"Provides-Extra: " + extra + b"\n" in metadata


# What only a checkout is for.
NOT_SHIPPED = {".ci/run", ".gitignore", "benchmarks/.gitignore"}


def test_the_source_archive_holds_what_its_tests_need(tmp_path: Path) -> None:
    copied = shipped_files(".")
    for name in copied:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    run("-c", build, cwd=tmp_path / "source")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
        metadata = file.extractfile(f"{archive.name.removesuffix('.tar.gz')}/PKG-INFO").read()
    assert set(copied) - held == NOT_SHIPPED
    assert b"License-Expression: Apache-2.0\n" in metadata
    assert b"\nRequires-Python: >=3.11,<3.14\n" in metadata
    # The package's page has no files that a link could lead to.
    links = re.findall(rb"\]\(([^)]+)\)", metadata)
    assert [link for link in links if not link.startswith((b"http", b"#"))] == []


HEAVY = ("keras_nlp", "keras_hub", "kagglehub", "tensorflow_text", "tensorboard", "matplotlib")


def test_what_is_heavy_is_imported_only_when_it_is_asked_for(tmp_path: Path) -> None:
    """Keras imports matplotlib where it finds it, so it must not find any."""
    code = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, "tests")
from pathlib import Path
import numpy as np
import tiny_task
from distilbert_tf import *
from distilbert_tf.pipelines import pipeline

encoder = tiny_task.tiny_checkpoint(Path(sys.argv[1]) / "encoder")
tokenizer = DistilBertTokenizer.from_pretrained(encoder)
model = TFDistilBertForSequenceClassification.from_pretrained(encoder, num_labels=2)
model.compile(create_optimizer(1e-3, total_steps=2), "sparse_categorical_crossentropy")
batch = tokenizer(["a kind talk", "stale"], padding=True, return_tensors="np")
model.fit(dict(batch), np.array([1, 0]), verbose=0)
model.save_pretrained(Path(sys.argv[1]) / "saved")
tokenizer.save_pretrained(Path(sys.argv[1]) / "saved")
print(pipeline("text-classification", model=str(Path(sys.argv[1]) / "saved"))("stale")[0]["label"])
"""
    said, _ = run("-c", code, str(tmp_path))
    assert said.strip() in ("LABEL_0", "LABEL_1")


READMES = ("README.md", "export/README.md")
COMMANDS = ("finetune", "export", "check-export", "serve", "query", "demo")


def test_a_directory_with_names_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """Imports and commands of the README beside a user's files of any name."""
    site, home = tmp_path / "site", tmp_path / "home"
    zipfile.ZipFile(wheel).extractall(site)
    for name in ("export", "tests", "data", "training", "client", "server"):
        (home / name).mkdir(parents=True)
        (home / name / "__init__.py").write_text(f"raise RuntimeError('{name}/ was imported')")
        (home / f"{name}.py").write_text(f"raise RuntimeError('{name}.py was imported')")
    imports = {
        line
        for readme in READMES
        for line in (ROOT / readme).read_text(encoding="utf-8").splitlines()
        if re.match(r"from (distilbert_tf|distilbert_serving)\S* import \w", line)
    }
    assert any("distilbert_serving" in line for line in imports)
    check = f"import distilbert_tf, sys; assert distilbert_tf.__file__.startswith({str(site)!r})"
    runs = [["-c", "\n".join([*sorted(imports), check])]]
    runs += [command_line(name, "--help")[1:] for name in COMMANDS]
    for words in runs:
        _, errors = run(*words, cwd=home, PYTHONPATH=str(site))
        assert "was imported" not in errors
    smoke_test = ("-m", "distilbert_serving.smoke_test", "--help")
    _, errors = run(*smoke_test, code=1, cwd=home, PYTHONPATH=str(site))  # as absl does
    assert "was imported" not in errors
