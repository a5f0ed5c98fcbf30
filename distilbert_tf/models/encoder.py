"""The encoder.

Shapes: B rows, T tokens in a row, D = config.dim, H = config.n_heads, L = config.n_layers.
"""

from typing import Any

import keras
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.models.embeddings import Embeddings
from distilbert_tf.models.inputs import ModelInputs, split_inputs
from distilbert_tf.models.layers import NO_FUSION, Fusion
from distilbert_tf.models.outputs import EncoderOutput
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.models.transformer import Transformer
from distilbert_tf.models.unpadding import DEFAULT_UNPADDING, Unpadding, make_layout


@keras.saving.register_keras_serializable(package="distilbert_tf")
class TFDistilBertModel(PreTrainedModel):
    """DistilBERT without a head.

    Args:
        config: Model configuration.
        **kwargs: See `PreTrainedModel`.

    Call arguments:
        inputs: `input_ids` (B, T), or with an `attention_mask` (B, T), nonzero where a token
            counts; any pattern, padding on either side. See `PreTrainedModel` for how they may be
            passed.
        training: Whether dropout acts.
        output_hidden_states: Whether to return all hidden states; by default as the configuration
            says.
        output_attentions: Whether to return the attention weights; likewise.
        first_token_only: Whether to compute the last hidden state of the first tokens alone, which
            is what a classifier reads: the last block then costs a third or less.
        skip_padding: Whether to leave out what no token sees; by default as the model was made.
        unpadding: How it is left out: see `Unpadding`.
        fusion: What is spelled for the graph optimizer: see `Fusion`.

    Returns:
        An `EncoderOutput`.

    Example:
        tokenizer = DistilBertTokenizer.from_pretrained("demo")
        model = TFDistilBertModel.from_pretrained("demo")
        model(tokenizer("A red kite.", return_tensors="tf")).last_hidden_state  # (1, T, D)

    Reference:
        Sanh et al., "DistilBERT, a distilled version of BERT" (arXiv 1910.01108). Numbers equal
        those of `DistilBertModel` of transformers on PyTorch.
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.embeddings = Embeddings(config, name="embeddings", dtype=self.dtype_policy)
        self.transformer = Transformer(config, name="transformer", dtype=self.dtype_policy)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.embeddings.build()
        self.transformer.build()

    def call(
        self,
        inputs: ModelInputs,
        training: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        first_token_only: bool = False,
        skip_padding: bool | None = None,
        unpadding: Unpadding = DEFAULT_UNPADDING,
        fusion: Fusion = NO_FUSION,
    ) -> EncoderOutput:
        """Encodes tokens."""
        if skip_padding is None:
            skip_padding = self.skip_padding
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states and not first_token_only
        if output_attentions is None:
            output_attentions = self.config.output_attentions and not first_token_only
        if output_hidden_states or output_attentions:
            skip_padding = False
        ids, mask = split_inputs(inputs)
        ids = self.embeddings.check_length(ids)
        with tf.control_dependencies([ids]):  # or positions beyond the last could fail before
            mask = tf.identity(mask)
        layout = make_layout(mask, skip_padding=skip_padding, options=unpadding)
        x = self.embeddings(
            layout.flatten(ids),
            layout.positions,
            fusion=fusion,
            training=training,
        )
        output = self.transformer(
            x,
            layout=layout,
            first_token_only=first_token_only,
            fusion=fusion,
            training=training,
        )

        def pad(x: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(layout.pad(x), [*ids.shape, self.config.dim])

        hidden_states = output.hidden_states if output_hidden_states else []
        attentions = output.attentions if output_attentions else []
        return EncoderOutput(
            output.last[:, tf.newaxis] if first_token_only else pad(output.last),
            tuple(map(pad, hidden_states)),
            tuple(weights for (weights,) in attentions),
        )

    def to_keras_hub(self) -> keras.Model:
        """Makes a `keras_nlp.models.DistilBertBackbone` that predicts what this model does.

        `attention_dropout` is dropped, since KerasHub has one dropout rate (`dropout`).

        Returns:
            The backbone: `token_ids` and `padding_mask` in, the last hidden state out.

        Raises:
            ValueError: The activation is not the exact GELU, or the positions are sinusoidal.
        """
        from distilbert_tf.models.keras_hub import make_backbone

        return make_backbone(self)
