"""What fine-tuning a tagger, or a model that answers questions, consists of: data, what is learned, metrics."""
