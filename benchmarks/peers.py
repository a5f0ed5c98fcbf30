"""Who is measured, and how each is set up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distilbert_serving.tf_serving.environment import serving_environment

OURS_ENV = serving_environment()
TENSORFLOW_ENV = {"TF_ENABLE_ONEDNN_OPTS": "1"}  # the better of the peers' two settings


# The workers that measure this package.
OURS = frozenset(
    {
        "ours",
        "ours_distillation",
        "ours_fit",
        "ours_tokenization",
        "ours_training",
        "serve",
        "gpu",
        "corpus",
    }
)


PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Peer:
    """One row of the tables.

    Attributes:
        name: On the command line and in the results.
        label: In tables and plots.
        worker: Module under benchmarks/workers.
        venv: Folder under .venvs, and file under requirements; None for this environment.
        env: Environment variables, on top of this process'.
        options: Passed to the worker.
        precision: One of `PRECISIONS`; the numbers of "float32" must be ours.
        yardstick: Whether it is no model, only a bound.
        prepares: Folder of what it converts a checkpoint to, which two peers may share; none if
            empty.
        default: Whether it runs unless `--peers` says otherwise.
    """

    name: str
    label: str
    worker: str
    venv: str | None
    env: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    yardstick: bool = False
    prepares: str = ""
    default: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether it is this package, whose failure is the run's."""
        return self.worker in OURS

    @property
    def competes(self) -> bool:
        """Whether it counts for "the fastest peer" of its precision."""
        return not self.is_ours and not self.yardstick

    def describe(self) -> dict[str, Any]:
        """Returns what results say about the peer."""
        return {
            "label": self.label,
            "precision": self.precision,
            "env": self.env,
            "options": self.options,
            "competes": self.competes,
            "is_ours": self.is_ours,
        }


INFERENCE = (
    Peer("ours", "distilbert-tf", "ours", None, OURS_ENV, prepares="ours"),
    Peer(
        "ours_default",
        "distilbert-tf, default environment",
        "ours",
        None,
        options={"set_threads": False},
        prepares="ours",
    ),
    Peer(
        "ours_bfloat16",
        "distilbert-tf, --compute=bfloat16",
        "ours",
        None,
        OURS_ENV,
        {"compute": "bfloat16"},
        precision="bfloat16",
        prepares="ours_bfloat16",
    ),
    Peer(
        "ours_fpmath",
        "distilbert-tf, TF_SET_ONEDNN_FPMATH_MODE=BF16",
        "ours",
        None,
        OURS_ENV | {"TF_SET_ONEDNN_FPMATH_MODE": "BF16"},
        precision="bfloat16",
        prepares="ours",
    ),
    Peer("torch", "PyTorch transformers", "torch", "torch"),
    Peer("torch_compile", "torch.compile", "torch", "torch", options={"compile": True}),
    Peer(
        "torch_bfloat16",
        "PyTorch transformers, autocast",
        "torch",
        "torch",
        options={"dtype": "bfloat16"},
        precision="bfloat16",
    ),
    Peer(
        "torch_compile_bfloat16",
        "torch.compile, autocast",
        "torch",
        "torch",
        options={"compile": True, "dtype": "bfloat16"},
        precision="bfloat16",
    ),
    Peer("onnxruntime", "ONNX Runtime", "onnxruntime", "onnxruntime", prepares="onnxruntime"),
    Peer(
        "onnxruntime_int8",
        "ONNX Runtime int8",
        "onnxruntime",
        "onnxruntime",
        options={"int8": True},
        prepares="onnxruntime_int8",
        precision="int8",
    ),
    Peer("openvino", "OpenVINO", "openvino", "openvino", prepares="openvino"),
    Peer(
        "openvino_bfloat16",
        "OpenVINO as it comes",  # bfloat16 where the processor has it
        "openvino",
        "openvino",
        options={"precision": ""},
        precision="bfloat16",
        prepares="openvino",
    ),
    Peer(
        "openvino_int8",
        "OpenVINO int8",
        "openvino",
        "openvino",
        options={"int8": True, "precision": ""},
        prepares="openvino_int8",
        precision="int8",
    ),
    Peer("ctranslate2", "CTranslate2", "ctranslate2", "ctranslate2", prepares="ctranslate2"),
    Peer("keras_hub", "KerasHub", "keras_hub", None, TENSORFLOW_ENV),
    Peer(
        "transformers4",
        "transformers 4 TF",
        "transformers4",
        "transformers4",
        TENSORFLOW_ENV,
        prepares="transformers4",
    ),
    Peer(
        "transformers4_xla",
        "transformers 4 TF, XLA",
        "transformers4",
        "transformers4",
        TENSORFLOW_ENV,
        {"xla": True},
        prepares="transformers4",
        default=False,  # compiles for minutes
    ),
    Peer("matmul", "bare products", "matmul", "torch", yardstick=True),
    Peer(
        "matmul_cls",
        "bare products for [CLS]",
        "matmul",
        "torch",
        options={"cls_only": True},
        yardstick=True,
    ),
)

TRAINING = (
    Peer("ours", "distilbert-tf, finetune", "ours_training", None, TENSORFLOW_ENV),
    Peer("ours_fit", "distilbert-tf, compile and fit", "ours_fit", None, TENSORFLOW_ENV),
    Peer(
        "ours_bfloat16",
        "distilbert-tf, finetune, mixed_bfloat16",
        "ours_training",
        None,
        TENSORFLOW_ENV,
        {"dtype": "mixed_bfloat16"},
        precision="bfloat16",
    ),
    Peer("torch", "PyTorch transformers", "torch_training", "torch"),
    Peer(
        "torch_bfloat16",
        "PyTorch transformers, autocast",
        "torch_training",
        "torch",
        options={"dtype": "bfloat16"},
        precision="bfloat16",
    ),
    Peer(
        "torch_sorted",
        "PyTorch, batches of one length",
        "torch_training",
        "torch",
        options={"sorted": True},
        default=False,  # not what its documentation does, but what ours does
    ),
    Peer(
        "torch_max",
        "PyTorch, padded to the maximum",
        "torch_training",
        "torch",
        options={"pad_to_max": True},
    ),
    Peer("keras_hub", "KerasHub", "keras_hub_training", None, TENSORFLOW_ENV),
    Peer(
        "transformers4",
        "transformers 4 TF",
        "transformers4_training",
        "transformers4",
        TENSORFLOW_ENV,
        prepares="transformers4",
    ),
)

DISTILLATION = (
    Peer("ours", "distilbert-tf", "ours_distillation", None, TENSORFLOW_ENV),
    Peer("torch", "PyTorch transformers", "torch_distillation", "torch"),
    Peer(
        "ours_bfloat16",
        "distilbert-tf, mixed_bfloat16",
        "ours_distillation",
        None,
        TENSORFLOW_ENV,
        {"dtype": "mixed_bfloat16"},
        precision="bfloat16",
        default=False,
    ),
    Peer(
        "torch_bfloat16",
        "PyTorch transformers, autocast to bfloat16",
        "torch_distillation",
        "torch",
        options={"dtype": "bfloat16"},
        precision="bfloat16",
        default=False,
    ),
)

TOKENIZATION = (
    Peer("ours", "distilbert-tf", "ours_tokenization", None, OURS_ENV),
    Peer("transformers", "transformers, fast", "transformers_tokenization", "torch"),
    Peer("keras_hub", "KerasHub", "keras_hub_tokenization", None, TENSORFLOW_ENV),
)

# As tf_serving.env advises for many requests: calls beside each other, each on one core.
OURS_LOAD_ENV = OURS_ENV | {"TF_NUM_INTRAOP_THREADS": "1"}
# `load.py` starts them as servers, with the options as flags; ours by the command line.
OURS_FILLED, OURS_BFLOAT16 = "ours_filled", "ours_bfloat16"
# Those that serve another export than the others of ours: its folder under the base path, which is
# no number, so that the others do not see it.
SERVED_FROM = {OURS_FILLED: "filled", OURS_BFLOAT16: "bfloat16"}


def _served(name: str, label: str, precision: str = "float32", **options: str) -> Peer:
    """Makes a server of ours; `options` are flags."""
    return Peer(name, label, "serve", None, OURS_LOAD_ENV, options, precision)


def _fastapi(
    name: str, label: str, precision: str = "float32", prepares: str = "", **options: str | int
) -> Peer:
    """Makes a FastAPI server; `options` are flags."""
    return Peer(
        name, f"FastAPI, {label}", "web_server", "fastapi", options=options, precision=precision,
        prepares=prepares,
    )  # fmt: skip


_BATCHES: dict[str, Any] = {"max_batch_size": 32}
LOAD = (
    _served("ours", "distilbert-tf serve"),
    _served("ours_unbatched", "the same, --enable_batching=false", enable_batching="false"),
    # A copy whose batching parameters list few sizes, as a GPU would want them.
    _served(OURS_FILLED, "the same, batches filled up to allowed sizes"),
    _served(OURS_BFLOAT16, "distilbert-tf serve, --compute=bfloat16", "bfloat16"),
    _fastapi("torch", "pipeline", model="torch"),
    _fastapi("torch_batched", "pipeline, batches", model="torch", **_BATCHES),
    _fastapi(
        "onnxruntime", "ONNX Runtime", prepares="onnxruntime", model="onnxruntime", runs=40
    ),
    _fastapi(
        "onnxruntime_batched", "ONNX Runtime, batches", prepares="onnxruntime",
        model="onnxruntime", **_BATCHES,
    ),
    _fastapi(
        "openvino_bfloat16", "OpenVINO as it comes", "bfloat16", "openvino",
        model="openvino_as_it_comes", runs=40,
    ),
    _fastapi(
        "openvino_batched", "OpenVINO, batches", prepares="openvino", model="openvino", **_BATCHES
    ),
    _fastapi(
        "openvino_batched_bfloat16", "OpenVINO as it comes, batches", "bfloat16", "openvino",
        model="openvino_as_it_comes", **_BATCHES,
    ),
)  # fmt: skip

# The ways to prepare a corpus: all this package.
CORPUS = (
    Peer("one", "1 process", "corpus", None, options={"num_processes": 1}),
    Peer("two", "2 processes", "corpus", None, options={"num_processes": 2}),
    Peer("beam", "Beam", "corpus", None, options={"options": ["--runner=DirectRunner"]}),
)


def choose(
    peers: tuple[Peer, ...], names: list[str], precisions: Sequence[str] = PRECISIONS
) -> list[Peer]:
    """Picks peers by name, in the table's order; the default ones if no name is given.

    Args:
        peers: All of them.
        names: Whom to pick.
        precisions: Which of the default ones.

    Raises:
        ValueError: No peer of that name, or no such precision.
    """
    if unknown := set(precisions) - set(PRECISIONS):
        raise ValueError(
            f"No precision {min(unknown)!r}; there are {', '.join(sorted(PRECISIONS))}."
        )
    known = {peer.name for peer in peers}
    if unknown := set(names) - known:
        raise ValueError(f"No peer {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}.")
    return [
        peer
        for peer in peers
        if (peer.name in names if names else peer.default and peer.precision in precisions)
    ]
