"""The pipelines against transformers' own on PyTorch: shapes, labels, tokens, scores, sequences.

Random models of three sizes are saved here and opened there, then both get the same calls; so are
the results of whole runs.
"""

import string
from pathlib import Path

import numpy as np
import pytest
import transformers
from comparing import assert_close, largest, near, roundings
from transformers import DistilBertConfig

from distilbert_tf.distillation.distilling import distill, train_masked_lm
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.pipelines import pipeline
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install -e .[parity]")
torch.set_num_threads(1)  # for models of this size more threads only wait for each other
pytestmark = pytest.mark.parity

SENTENCES = [
    "Two swans crossed the road and the traffic waited.",
    "No.",
    "",
    "The café on the corner — closed since March — smells of paint today.",
    "I asked for the aisle seat, got the window, and did not regret it for one minute!",
    "Half of the actors forgot their lines; the other half made up better ones.",
    "Batteries not included [PAD] nor are the screws",
    "Who signed for the parcel? 王 did, or so the driver says.",
    "It was, all in all, a fine evening: cold soup, warm company, and nobody sang.",
]
MASKED = [
    "Two [MASK] crossed the road.",
    "[MASK]",
    "The [MASK] on the corner smells of [MASK] today.",
    "Nobody [MASK] , and the café closed early!",
    "[MASK] [PAD] the aisle seat",
    "I asked for the window and got the [MASK] : that is travel, that is [MASK] [MASK].",
    "Half of the actors forgot their [MASK]; the other half made up better ones.",
]
WORDS = "the of and a for road traffic café cafe paint seat window actors lines soup evening nobody"
VOCABULARY = [
    *["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    *dict.fromkeys(WORDS.split()),
    *"!,.:;?—'",
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
    *["##ed", "##ing", "##s"],
]
SIZES = [
    {"n_layers": 1, "n_heads": 2, "dim": 8, "hidden_dim": 20, "activation": "relu"},
    {"n_layers": 2, "n_heads": 3, "dim": 24, "hidden_dim": 40, "sinusoidal_pos_embds": True},
    {"n_layers": 4, "n_heads": 4, "dim": 32, "hidden_dim": 64, "tie_word_embeddings": False},
]


def saved(model_class, directory, seed: int, **fields):
    """Writes a random checkpoint with its tokenizer; gives our model and tokenizer."""
    config = DistilBertConfig(
        vocab_size=len(VOCABULARY), max_position_embeddings=128, **SIZES[seed], **fields
    )
    model = model_class(config)
    random = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(weight + 0.3 * random.normal(size=weight.shape))
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    tokenizer = DistilBertTokenizer.from_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model, tokenizer


class Same:
    """Compares nested results of a model; scores but for rounding, all else exactly."""

    def __init__(self, model) -> None:
        self.count = roundings(model)
        shape = (32, 20)
        self.logits = largest(model(np.arange(np.prod(shape)).reshape(shape) % len(VOCABULARY)))

    def __call__(self, ours, theirs, where: str = "result") -> None:
        assert type(ours) is type(theirs), where
        if isinstance(ours, list):
            assert len(ours) == len(theirs), where
            for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                self(one, other, f"{where}[{i}]")
        elif isinstance(ours, dict):
            assert list(ours) == list(theirs), where
            for key in ours:
                self(ours[key], theirs[key], f"{where}[{key!r}]")
        elif isinstance(ours, float):
            assert ours == near(theirs, self.count, size=self.logits), where
        else:
            assert ours == theirs, where


@pytest.mark.parametrize("seed", range(len(SIZES)))
class TestFillMask:
    @pytest.fixture
    def both(self, seed, tmp_path):
        saved(TFDistilBertForMaskedLM, tmp_path, seed)
        ours = pipeline("fill-mask", tmp_path, batch_size=3)
        return ours, transformers.pipeline("fill-mask", model=str(tmp_path), device="cpu")

    def test_calls(self, both):
        ours, theirs = both
        assert_same = Same(ours.model)
        for text in MASKED:
            assert_same(ours(text), theirs(text), text)
        assert_same(ours(MASKED), theirs(MASKED))
        for size in (1, 2):
            assert_same(ours(MASKED[:size]), theirs(MASKED[:size]))
        assert_same(list(ours(text for text in MASKED)), list(theirs(text for text in MASKED)))

    def test_options(self, both):
        ours, theirs = both
        assert_same = Same(ours.model)
        for options in [
            {"top_k": 1},
            {"top_k": len(VOCABULARY)},
            {"targets": "soup"},
            {"targets": ["soup", "roads", "##ing", "nothing", "soup"], "top_k": 3},
        ]:
            assert_same(ours(MASKED, **options), theirs(MASKED, **options), str(options))
        long = "The [MASK] waited. " + "No paint on the road. " * 60
        options = {"tokenizer_kwargs": {"truncation": True, "max_length": 128}}
        assert_same(ours(long, **options), theirs(long, **options))


@pytest.mark.parametrize("train", [distill, train_masked_lm])
def test_results_of_a_run_open_there(train, tmp_path: Path) -> None:
    """A student and a pre-trained model: logits, answers and token ids."""
    saved(TFDistilBertForMaskedLM, tmp_path / "start", 2)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(filter(None, SENTENCES)), encoding="utf-8")
    settings = {"max_length": 128, "validation_share": 0.5, "batch_size": 4, "max_steps": 3}
    output = tmp_path / "out"
    result = train(tmp_path / "start", corpus, output, learning_rate=1e-2, **settings)

    model, loading = transformers.AutoModelForMaskedLM.from_pretrained(
        output, attn_implementation="eager", output_loading_info=True
    )
    assert type(model) is transformers.DistilBertForMaskedLM
    assert not any(loading.values()), loading
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    inputs = tokenizer(MASKED, padding=True, return_tensors="np")
    assert inputs["input_ids"].tolist() == result.tokenizer(MASKED, padding=True)["input_ids"]
    mask = inputs["attention_mask"]
    with torch.no_grad():
        theirs = model(torch.tensor(inputs["input_ids"]), torch.tensor(mask)).logits.numpy()
    names = ("input_ids", "attention_mask")
    ours = result.model({name: inputs[name] for name in names}).numpy()
    assert_close(ours[mask == 1], theirs[mask == 1], roundings(result.model))

    fill_mask = transformers.pipeline("fill-mask", model=str(output), device="cpu")
    Same(result.model)(pipeline("fill-mask", output)(MASKED), fill_mask(MASKED))


@pytest.mark.parametrize("seed", range(len(SIZES)))
class TestTextClassification:
    @pytest.fixture
    def make(self, seed, tmp_path):
        def make(**fields):
            fields = {"num_labels": 4} | fields
            saved(TFDistilBertForSequenceClassification, tmp_path, seed, **fields)

            def both(**options):
                ours = pipeline("sentiment-analysis", tmp_path, batch_size=4, **options)
                return ours, transformers.pipeline(
                    "sentiment-analysis", model=str(tmp_path), device="cpu", **options
                )

            return both

        return make

    def test_calls(self, make):
        pairs = [
            {"text": SENTENCES[0], "text_pair": SENTENCES[5]},
            {"text": SENTENCES[1]},
            {"text": SENTENCES[4], "text_pair": SENTENCES[8]},
        ]
        both = make(id2label={0: "dull", 1: "fair", 2: "fine", 3: "grand"})
        for from_the_start in [{}, {"top_k": None}, {"top_k": 1}]:
            ours, theirs = both(**from_the_start)
            assert_same = Same(ours.model)
            for call in [{}, {"top_k": None}, {"top_k": 2}, {"function_to_apply": "sigmoid"}]:
                for inputs in [SENTENCES[3], pairs[0], SENTENCES, [SENTENCES[1]], pairs]:
                    where = f"{from_the_start} {call} {inputs}"
                    assert_same(ours(inputs, **call), theirs(inputs, **call), where)
        assert_same(
            list(ours(text for text in SENTENCES)), list(theirs(text for text in SENTENCES))
        )

    def test_truncation(self, make):
        ours, theirs = make()()
        assert_same = Same(ours.model)
        pair = {"text": SENTENCES[3] * 4, "text_pair": SENTENCES[4] * 3}
        for inputs in [SENTENCES[4] * 9, pair]:
            options = {"truncation": True, "max_length": 128}
            assert_same(ours(inputs), theirs(inputs, **options))
            short = {"truncation": True, "max_length": 40}
            assert_same(ours(inputs, **short), theirs(inputs, **short))

    @pytest.mark.parametrize(
        "fields",
        [
            {"num_labels": 1},
            {"num_labels": 1, "problem_type": "regression"},
            {"num_labels": 3, "problem_type": "regression"},
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            {"num_labels": 2, "problem_type": "single_label_classification"},
        ],
        ids=str,
    )
    def test_kinds_of_problem(self, make, fields):
        ours, theirs = make(**fields)()
        assert_same = Same(ours.model)
        for call in [{}, {"top_k": None}, {"function_to_apply": "none"}]:
            assert_same(ours(SENTENCES, **call), theirs(SENTENCES, **call), str(call))
