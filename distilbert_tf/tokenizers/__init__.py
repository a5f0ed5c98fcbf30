"""The tokenizer, and its graph of core TensorFlow ops."""
