"""The contract of an export: its signatures, which exporter, clients, servers and checks read here.

A row that cannot be computed (a text that is too long, an id out of range, a tf.Example without its
feature) is answered all the same, since a server merges the rows of many clients: its numbers are
NaN, its strings empty, and its integers `NO_NUMBER`. Of every output, all dimensions but the first
are fixed, so that a server may split a large request and join the answers.

Needs neither TensorFlow nor protocol buffers.

Shapes: B rows, T tokens of the longest row, L the export's `max_length`, C classes, D the encoder's
width, M the export's `max_masks`, K answers for each mask.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

NO_NUMBER = -1  # the integers of a row that cannot be computed

SERVING_DEFAULT = "serving_default"  # the signature of a request that names none

# Endpoints. An export of several tasks has those of the first task under these names, and each
# task's own under the task's name: see `signature_of`.
CLASSIFY_TEXT = "classify_text"
CLASSIFY = "classify"  # TF Serving's Classify
REGRESS = "regress"  # TF Serving's Regress
ENCODE = "encode"
TOKENIZE = "tokenize"
FILL_MASK = "fill_mask"
FROM_IDS = "from_ids"

# What a task of a MultiInference request asks its signature for.
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"

# Inputs.
TEXT = "text"
TEXT_PAIR = "text_pair"
EXAMPLES = "inputs"  # serialized tf.Example with the features TEXT and, for pairs, TEXT_PAIR

# Inputs of FROM_IDS, and outputs of TOKENIZE.
INPUT_IDS = "input_ids"
NUM_TOKENS = "num_tokens"  # how many ids of each row count; the rest may be anything

# Outputs.
LABEL = "label"
LABEL_ID = "label_id"
PROBABILITIES = "probabilities"
LOGITS = "logits"
CLASSES = "classes"
SCORES = "scores"  # of FILL_MASK, 0 where a row has no mask
REGRESSION = "outputs"
CLS_EMBEDDING = "cls_embedding"  # the last hidden state of [CLS]
MEAN_EMBEDDING = "mean_embedding"  # the mean of the last hidden states
TOKENS = "tokens"  # of FILL_MASK, "" where a row has no mask
TOKEN_IDS = "token_ids"  # 0 where a row has no mask


class TensorInfo(NamedTuple):
    """Type and shape of a signature's input or output.

    Args:
        dtype: TensorFlow's short name of the type, such as "string" or "float".
        shape: Sizes, None where any size will do; None for any shape at all.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    @property
    def is_batched(self) -> bool:
        """Whether the first dimension is the batch, of any size."""
        return self.shape is not None and self.shape[:1] == (None,)

    def fits(self, contract: "TensorInfo") -> bool:
        """Says whether type and rank are those of the contract; a tensor of unknown rank fits."""
        return self.dtype == contract.dtype and (
            self.shape is None or contract.shape is None or len(self.shape) == len(contract.shape)
        )


class SignatureInfo(NamedTuple):
    """A signature's inputs and outputs by name."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


# (B,), (B, columns) and (B, M, K)
_STRINGS, _STRINGS_2D, _STRINGS_3D = (TensorInfo("string", (None,) * rank) for rank in (1, 2, 3))
_INTS, _INTS_2D, _INTS_3D = (TensorInfo("int32", (None,) * rank) for rank in (1, 2, 3))
_FLOATS, _FLOATS_2D, _FLOATS_3D = (TensorInfo("float", (None,) * rank) for rank in (1, 2, 3))

InputKind = Literal["texts", "pairs", "examples", "ids"]

# What a signature may take.
INPUTS: Mapping[InputKind, Mapping[str, TensorInfo]] = {
    "texts": {TEXT: _STRINGS},
    "pairs": {TEXT: _STRINGS, TEXT_PAIR: _STRINGS},
    "examples": {EXAMPLES: _STRINGS},
    "ids": {INPUT_IDS: _INTS_2D, NUM_TOKENS: _INTS},  # (B, T), (B,)
}

# What each endpoint returns; FROM_IDS returns what SERVING_DEFAULT does.
OUTPUTS: Mapping[str, Mapping[str, TensorInfo]] = {
    CLASSIFY_TEXT: {  # of texts, or of pairs in a pair task
        LABEL: _STRINGS,
        LABEL_ID: _INTS,
        PROBABILITIES: _FLOATS_2D,  # (B, C)
        LOGITS: _FLOATS_2D,
    },
    CLASSIFY: {CLASSES: _STRINGS_2D, SCORES: _FLOATS_2D},  # of examples; (B, C)
    REGRESS: {REGRESSION: _FLOATS},  # of examples
    ENCODE: {CLS_EMBEDDING: _FLOATS_2D, MEAN_EMBEDDING: _FLOATS_2D},  # of texts; (B, D)
    TOKENIZE: {  # of texts, or of pairs in a pair task
        INPUT_IDS: _INTS_2D,  # (B, L)
        NUM_TOKENS: _INTS,
        TOKENS: _STRINGS_2D,
    },
    FILL_MASK: {TOKENS: _STRINGS_3D, TOKEN_IDS: _INTS_3D, SCORES: _FLOATS_3D},  # of texts
}


def kind_of_inputs(names: Iterable[str]) -> InputKind | None:
    """Says what a signature with inputs of these names takes; None if it is none of `INPUTS`."""
    names = set(names)
    return next((kind for kind, inputs in INPUTS.items() if inputs.keys() == names), None)


def takes_texts(names: Iterable[str]) -> bool:
    """Says whether a signature with inputs of these names takes texts or pairs of texts."""
    return kind_of_inputs(names) in ("texts", "pairs")


def signature_of(task: str, endpoint: str) -> str:
    """Returns the name of a task's own signature, such as "mnli" or "mnli_tokenize".

    Args:
        task: The task's name.
        endpoint: The endpoint; that which classifies has the task's name alone.
    """
    return task if endpoint == CLASSIFY_TEXT else f"{task}_{endpoint}"


def is_named_for(signature: str, endpoint: str) -> bool:
    """Says whether a signature has the name of an endpoint, its own or a task's."""
    return signature == endpoint or signature.endswith(f"_{endpoint}")
