"""What the label of a row is, as `problem_type` in `config.json` says; no import is heavy here."""

SINGLE_LABEL = "single_label_classification"  # one of the labels
MULTI_LABEL = "multi_label_classification"  # any number of them
REGRESSION = "regression"  # a number
