"""Pretraining and fine-tuning: thin layers over ``transformers.Trainer``."""
