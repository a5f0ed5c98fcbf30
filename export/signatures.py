"""Names of endpoints and tensors: what exporter, server and client agree on.

Constants only, so that a client can use them without importing TensorFlow.

Shape legend: B examples, C classes.
"""

SERVING_DEFAULT = "serving_default"  # the signature of a request that names none

# Inputs, strings of shape (B,).
TEXT = "text"
TEXT_PAIR = "text_pair"  # pair tasks only

# Outputs.
LABEL = "label"  # string (B,)
PROBABILITIES = "probabilities"  # float32 (B, C)
LOGITS = "logits"  # float32 (B, C)
