"""Results in plain words; what is written depends on what was measured, whichever way it went."""

import math
from typing import Any

Results = dict[str, Any]
MEBIBYTE = 2**20


def seconds(value: float) -> str:
    """A time with two or three significant digits."""
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 100:
        return f"{value:.3g} s"
    return f"{value / 60:.1f} min"


def memory(size: float | None) -> str:
    """Bytes in MiB; None = not measured."""
    return "not measured" if size is None else f"{size / MEBIBYTE:,.0f} MiB"


def beginning(text: str, characters: int = 300) -> str:
    """The first characters of a text, with a mark where more follow.

    >>> beginning("a long text", 6)
    'a long ...'
    """
    return text if len(text) <= characters else f"{text[:characters].rstrip()} ..."


def times(ratio: float, less: str, more: str) -> str:
    """A ratio in words: ``6.3 times less``; within 5 % it is ``the same``."""
    if ratio < 0.95:
        return f"{1 / ratio:.2g} times {less}"
    if ratio > 1.05:
        return f"{ratio:.2g} times {more}"
    return "the same"


def perplexity(run: dict[str, Any]) -> float:
    """The headline perplexity of a pretraining run: the one on the longest text."""
    return run["perplexity"][-1][1]


def by_name(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pretraining runs by their names."""
    return {run["name"]: run for run in runs}


def learning(results: Results) -> str:
    """Who learned better, and whether attention was of any use."""
    runs = by_name(results["pretraining"])
    ours, softmax, control = (perplexity(runs[name]) for name in ("linformer", "transformer", "control"))
    length = runs["linformer"]["perplexity"][-1][0]
    if ours < 0.99 * softmax:
        place = f"{1 - ours / softmax:.0%} below the Transformer"
    elif ours > 1.01 * softmax:
        place = f"{ours / softmax - 1:.0%} above the Transformer"
    else:
        place = "within 1% of the Transformer"
    first = f"On held-out text, {length:,} tokens at a time, the Linformer's perplexity (lower is better) ends {place}."
    used = [name for name, value in (("Linformer", ours), ("Transformer", softmax)) if value < 0.99 * control]
    if len(used) == 2:
        second = "Both are below the control, so attention was of use to both, and the comparison means something."
    elif used:
        second = f"Only the {used[0]} is clearly below the control: the other has not yet learned to use its attention."
    else:
        second = "Neither is clearly below the control: the run was too short for attention to be of use."
    return f"{first} {second}"


def passages(results: Results) -> str:
    """What the fine-tuned model is worth beside the two baselines."""
    task = results["passages"]
    accuracy = task["accuracy"]
    ours, tfidf = accuracy["linformer"], accuracy["tfidf"]
    first = (
        f"It is right on {ours:.1%} of {task['held_out']:,} passages (95% interval: {task['interval'][0]:.0%} to "
        f"{task['interval'][1]:.0%}), where always naming the commonest book gives {accuracy['majority']:.1%}."
    )
    if task["interval"][0] > tfidf:
        second = f"Counting words (TF-IDF and logistic regression) reaches {tfidf:.1%}."
    elif task["interval"][1] < tfidf:
        second = (
            f"Counting words (TF-IDF and logistic regression) does better, with {tfidf:.1%}: names and rare words give "
            "a book away, and a model this small, after minutes, has yet to learn them."
        )
    else:
        second = f"Counting words (TF-IDF and logistic regression) is about as good, with {tfidf:.1%}."
    return f"{first} {second}"


def longest_common(cells: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two measurements, Linformer's and Transformer's, at the longest length that has both."""
    found = {(cell["name"], cell["length"]): cell for cell in cells}
    length = max(n for name, n in found if name == "linformer" and ("transformer", n) in found)
    return found["linformer", length], found["transformer", length]


def cost(results: Results) -> str:
    """Time and memory at the longest length."""
    ours, softmax = longest_common(results["cost"]["cells"])
    first = (
        f"At {ours['length']:,} tokens the Linformer takes {seconds(ours['seconds'])} and the Transformer "
        f"{seconds(softmax['seconds'])}."
    )
    slower = slower_lengths(results["cost"]["cells"])
    if slower:
        first += f" On short texts (up to {max(slower):,} tokens) the Transformer is the faster one."
    second = (
        "Memory is what one pass needs beyond the model. Both models use PyTorch's fused attention, which never stores "
        "the table of all pairs of tokens, so memory grows in a straight line for both: the gain is time."
    )
    return f"{first} {second if ours['peak_bytes'] else ''}".strip()


def slower_lengths(cells: list[dict[str, Any]]) -> list[int]:
    """The lengths at which softmax attention is the faster one."""
    found = {(cell["name"], cell["length"]): cell["seconds"] for cell in cells}
    return [
        n
        for name, n in found
        if name == "linformer" and found[name, n] > 1.05 * found.get(("transformer", n), math.inf)
    ]


def converted(results: Results) -> bool:
    """Whether the report has a converted model."""
    return "skipped" not in results["conversion"]
