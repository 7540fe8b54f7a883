"""What a trained classifier is worth: its predictions, and how sure an accuracy is."""

import math

import numpy as np
import torch
from transformers import PreTrainedModel

BATCH = 16


@torch.no_grad()
def predict(model: PreTrainedModel, blocks: np.ndarray) -> np.ndarray:
    """Probability of each class for each sequence, shape (sequences, classes)."""
    model.eval()
    batches = [torch.from_numpy(blocks[start : start + BATCH]) for start in range(0, len(blocks), BATCH)]
    return np.concatenate([model(ids.to(model.device)).logits.softmax(-1).cpu().numpy() for ids in batches])


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson's score), which stays within 0 and 1 also for small counts."""
    z = 1.96  # of 95 %
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / total / 4) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)
