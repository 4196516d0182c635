"""What the features know: embedding, splits that cannot leak, metrics, probes."""
