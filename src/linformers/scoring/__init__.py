"""Scoring: any number of documents through a classifier or an encoder, each exactly once."""
