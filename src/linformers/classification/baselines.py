"""What a classifier of text must beat to be worth its time: the commonest class, and bags of words."""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def majority_accuracy(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Accuracy of always answering the commonest class of the training set."""
    return float(np.mean(test_labels == np.bincount(train_labels).argmax()))


def tfidf_accuracy(
    train_texts: Sequence[str], train_labels: np.ndarray, test_texts: Sequence[str], test_labels: np.ndarray
) -> float:
    """Accuracy of logistic regression on TF-IDF weights of words (scikit-learn's, with sublinear counts)."""
    classifier = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000))
    classifier.fit(train_texts, train_labels)
    return float(classifier.score(test_texts, test_labels))
