"""What a classifier of text must beat to be worth its time: the commonest class, and bags of words."""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from linformers.data.tasks_rules import Kind


def majority_accuracy(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Accuracy of always answering the commonest class of the training set."""
    return float(np.mean(test_labels == np.bincount(train_labels).argmax()))


def tfidf_accuracy(
    train_texts: Sequence[str], train_labels: np.ndarray, test_texts: Sequence[str], test_labels: np.ndarray
) -> float:
    """Accuracy of logistic regression on TF-IDF weights of words; see ``tfidf_scores``."""
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    scores = tfidf_scores(train_texts, train_labels, test_texts, "single_label", classes)
    return float(np.mean(scores.argmax(1) == test_labels))


def tfidf_scores(
    train_texts: Sequence[str],
    train_labels: Shaped[np.ndarray, "rows ..."],
    test_texts: Sequence[str],
    kind: Kind,
    classes: int,
) -> Float[np.ndarray, "tested classes"]:
    """Scores of scikit-learn's linear models on TF-IDF weights of words, with sublinear counts.

    Logistic regression gives probabilities of classes (one regression for each, where there are several labels), ridge
    regression values.

    Raises:
        ValueError: The texts hold no words of two letters or more.
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    train, test = vectorizer.fit_transform(train_texts), vectorizer.transform(test_texts)
    if kind == "regression":
        return Ridge().fit(train, train_labels).predict(test)[:, None]
    scores = np.zeros((len(test_texts), classes))
    columns = [train_labels[:, place] for place in range(classes)] if kind == "multi_label" else [train_labels]
    for place, labels in enumerate(columns):
        there = np.unique(labels).astype(int)
        targets = there if kind == "single_label" else [place]
        if len(there) == 1:
            scores[:, targets] = 1.0 if kind == "single_label" else float(there[0])
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged, which moves no figure that is shown
            found = LogisticRegression(C=10.0, max_iter=1000).fit(train, labels).predict_proba(test)
        scores[:, targets] = found if kind == "single_label" else found[:, 1:]
    return scores
