"""Writes tests/references/tf4_*: checkpoints of Hugging Face's last TensorFlow models.

Run by hand in an environment of its own:

    pip install 'transformers==4.57.*' tf-keras==2.21 tensorflow==2.21 torch
    python tests/make_tf4_references.py

Each directory holds config.json and tf_model.h5 as `TF*.save_pretrained` writes them (HDF5 is
mostly air: it is kept as tf_model.h5.gz), and `expected.npz` with inputs and outputs.
"""

import gzip
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.modeling_tf_pytorch_utils import load_pytorch_model_in_tf2_model

REFERENCES = Path(__file__).parent / "references"

DISTILBERT = dict(vocab_size=19, dim=6, n_heads=3, hidden_dim=10, max_position_embeddings=8)
BERT = dict(vocab_size=19, hidden_size=6, num_hidden_layers=1, num_attention_heads=2)
BERT |= dict(intermediate_size=10, max_position_embeddings=8)
CASES = {
    "tf4_base": ("DistilBertModel", DISTILBERT | dict(n_layers=2)),
    "tf4_masked_lm": ("DistilBertForMaskedLM", DISTILBERT | dict(n_layers=1)),
    "tf4_classifier": (
        "DistilBertForSequenceClassification",
        DISTILBERT | dict(n_layers=1, id2label={0: "a", 1: "b", 2: "c"}),
    ),
    "tf4_bert_pretraining": ("BertForPreTraining", BERT),
}


def write_case(name: str, class_name: str, fields: dict, seed: int) -> None:
    torch.manual_seed(seed)
    torch_class = getattr(transformers, class_name)
    donor = torch_class(torch_class.config_class(**fields)).eval()
    with torch.no_grad():
        for weight in donor.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model = getattr(transformers, "TF" + class_name)(donor.config)
    model(model.dummy_inputs)
    model = load_pytorch_model_in_tf2_model(model, donor, allow_missing_keys=True)

    rng = np.random.default_rng(seed)
    ids = rng.integers(0, fields["vocab_size"], (3, 6)).astype("int32")
    mask = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0]], "int32")
    output = model({"input_ids": ids, "attention_mask": mask})
    key = {"tf4_base": "last_hidden_state", "tf4_bert_pretraining": "prediction_logits"}
    model.save_pretrained(REFERENCES / name)
    hdf5 = REFERENCES / name / "tf_model.h5"
    (REFERENCES / name / "tf_model.h5.gz").write_bytes(gzip.compress(hdf5.read_bytes(), mtime=0))
    hdf5.unlink()
    np.savez_compressed(
        REFERENCES / name / "expected.npz",
        input_ids=ids,
        attention_mask=mask,
        output=output[key.get(name, "logits")].numpy(),
    )


if __name__ == "__main__":
    for seed, (name, (class_name, fields)) in enumerate(CASES.items()):
        write_case(name, class_name, fields, seed)
