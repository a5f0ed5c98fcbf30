"""Names of endpoints and tensors: what exporter, server and client agree on.

Constants only, so that a client can use them without importing TensorFlow.

A row that cannot be computed (a text that is too long, an id out of range, a tf.Example without its
feature) is answered all the same, since a server merges the rows of many clients: its numbers are
NaN, its strings empty, and its integers `NO_NUMBER`. Of every output, all dimensions but the first
are fixed, so that a server may split a large request and join the answers.

Shapes: B examples, T tokens of the longest row, L the export's `max_length`, C classes, D the
encoder's width, M the export's `max_masks`, K answers for each mask.
"""

NO_NUMBER = -1  # the integers of a row that cannot be computed

SERVING_DEFAULT = "serving_default"  # the signature of a request that names none

# Endpoints. An export of several tasks has those of the first task under these names, and each
# task's own under the task's name: `mnli` (its CLASSIFY_TEXT), `mnli_classify`, `mnli_regress`,
# `mnli_tokenize`, `mnli_from_ids`.
CLASSIFY_TEXT = "classify_text"  # TEXT[, TEXT_PAIR] -> LABEL, LABEL_ID, PROBABILITIES, LOGITS
CLASSIFY = "classify"  # EXAMPLES -> CLASSES, SCORES: TF Serving's Classify
REGRESS = "regress"  # EXAMPLES -> REGRESSION: TF Serving's Regress
ENCODE = "encode"  # TEXT -> CLS_EMBEDDING, MEAN_EMBEDDING
TOKENIZE = "tokenize"  # TEXT[, TEXT_PAIR] -> INPUT_IDS, NUM_TOKENS, TOKENS
FILL_MASK = "fill_mask"  # TEXT -> TOKENS, TOKEN_IDS, SCORES
FROM_IDS = "from_ids"  # INPUT_IDS, NUM_TOKENS -> as SERVING_DEFAULT

# What a task of a MultiInference request asks its signature for.
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"

# Inputs.
TEXT = "text"  # string (B,)
TEXT_PAIR = "text_pair"  # string (B,), pair tasks only
EXAMPLES = "inputs"  # string (B,): serialized tf.Example with the features TEXT and TEXT_PAIR

# Inputs of FROM_IDS, and outputs of TOKENIZE.
INPUT_IDS = "input_ids"  # int32 (B, T), of TOKENIZE (B, L)
NUM_TOKENS = "num_tokens"  # int32 (B,): how many ids of each row count; the rest may be anything

# Outputs.
LABEL = "label"  # string (B,)
LABEL_ID = "label_id"  # int32 (B,)
PROBABILITIES = "probabilities"  # float32 (B, C)
LOGITS = "logits"  # float32 (B, C)
CLASSES = "classes"  # string (B, C)
SCORES = "scores"  # float32 (B, C) of CLASSIFY; (B, M, K) of FILL_MASK, 0 where a row has no mask
REGRESSION = "outputs"  # float32 (B,)
CLS_EMBEDDING = "cls_embedding"  # float32 (B, D): the last hidden state of [CLS]
MEAN_EMBEDDING = "mean_embedding"  # float32 (B, D): the mean of the last hidden states
TOKENS = "tokens"  # string (B, L) of TOKENIZE; (B, M, K) of FILL_MASK, "" where a row has no mask
TOKEN_IDS = "token_ids"  # int32 (B, M, K), 0 where a row has no mask
