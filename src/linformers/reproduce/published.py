"""What the Linformer paper reports (Wang et al., arXiv 2006.04768), and the claims that are checked."""

PAPER = "Wang et al., Linformer: Self-Attention with Linear Complexity, arXiv 2006.04768"
CLAIMS = {
    "a": "with k = n/4, Linformer is on par with the standard Transformer",
    "b": "the larger k, the closer it is",
    "c": "sharing one projection over all layers is as good as sharing none",
    "d": "longer n at the same k is no worse",
    "e": "attention of higher layers has lower rank",
    "f": "time and memory are saved, the more the longer n and the smaller k",
}

# Table 2, accuracy in percent, by n and model.
TASKS = ("sst2", "imdb", "qnli", "qqp")
ACCURACY = {
    "RoBERTa-base": (93.1, 94.1, 90.9, 90.9),
    "k = 128": (92.4, 94.0, 90.4, 90.2),
    "k = 128, shared kv": (93.4, 93.4, 90.3, 90.3),
    "k = 128, shared kv, shared layer": (93.2, 93.8, 90.1, 90.2),
    "k = 256": (93.2, 94.0, 90.6, 90.5),
    "k = 256, shared kv": (93.3, 93.6, 90.6, 90.6),
    "k = 256, shared kv, shared layer": (93.1, 94.1, 91.2, 90.8),
    "n = 1024, k = 256": (93.0, 93.8, 90.4, 90.4),
    "n = 1024, k = 256, shared kv": (93.0, 93.6, 90.3, 90.4),
    "n = 1024, k = 256, shared kv, shared layer": (93.2, 94.2, 90.8, 90.5),
}

# Table 3, by n and then k: against the standard Transformer on a V100 of 16 GB.
DIMS = (128, 256, 512, 1024, 2048)
TIME: dict[int, tuple[float, ...]] = {
    512: (1.5, 1.3),
    1024: (1.7, 1.6, 1.3),
    2048: (2.6, 2.4, 2.1, 1.3),
    4096: (3.4, 3.2, 2.8, 2.2, 1.3),
    8192: (5.5, 5.0, 4.4, 3.5, 2.1),
    16384: (8.6, 7.8, 7.0, 5.6, 3.3),
    32768: (13, 12, 11, 8.8, 5.0),
    65536: (20, 18, 16, 14, 7.9),
}
MEMORY: dict[int, tuple[float, ...]] = {
    512: (1.7, 1.5),
    1024: (3.0, 2.9, 1.8),
    2048: (6.1, 5.6, 3.6, 2.0),
    4096: (14, 13, 8.3, 4.3, 2.3),
    8192: (28, 26, 17, 8.5, 4.5),
    16384: (56, 48, 32, 16, 8),
    32768: (56, 48, 36, 18, 16),
    65536: (60, 52, 40, 20, 18),
}


def saved(table: dict[int, tuple[float, ...]], n: int, k: int) -> float | None:
    """A cell of Table 3, where the paper has it."""
    row: dict[int, float] = dict(zip(DIMS, table.get(n, ()), strict=False))
    return row.get(k)


def accuracy(model: str, task: str) -> float | None:
    """A cell of Table 2, as a share, where the paper has it."""
    if model not in ACCURACY or task not in TASKS:
        return None
    return ACCURACY[model][TASKS.index(task)] / 100
