"""What a server reads beside a model: batching, warm-up requests, models, labels, metrics."""
