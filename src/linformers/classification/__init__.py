"""What fine-tuning a classifier consists of."""
