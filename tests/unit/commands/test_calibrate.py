"""Thresholds against a search over all of them; reliability by hand."""

import numpy as np
import pytest

from linformers.commands.calibrate import choose_threshold, reliability


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [0.5, 0.8, 0.95])
def test_threshold_is_the_best_of_all(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(200) < 0.3
    scores = np.round(np.clip(0.5 * truth + rng.normal(0.25, 0.2, 200), 0, 1), 2).astype(np.float32)  # with ties
    kept = {t: scores >= t for t in np.unique(scores)}
    precise = [t for t, flags in kept.items() if truth[flags].mean() >= least]
    complete = [t for t, flags in kept.items() if truth[flags].sum() >= least * truth.sum()]
    assert (scores >= choose_threshold(truth, scores, recall=least)).tolist() == kept[max(complete)].tolist()
    if precise:
        assert (scores >= choose_threshold(truth, scores, precision=least)).tolist() == kept[min(precise)].tolist()
    else:
        with pytest.raises(ValueError, match="reached by no threshold; the best is"):
            choose_threshold(truth, scores, precision=least)


def test_documents_of_one_kind_say_nothing() -> None:
    with pytest.raises(ValueError, match="3 documents, 3 of the target"):
        choose_threshold(np.ones(3, bool), np.ones(3, np.float32), precision=0.5)


def test_reliability_by_hand() -> None:
    scores = np.linspace(0, 1, 20).astype(np.float32)
    truth = np.arange(20) % 4 == 3
    bins = reliability(truth, scores)
    assert [one["documents"] for one in bins] == [2] * 10
    assert [one["found"] for one in bins] == [0.0, 0.5] * 5
    assert bins[1]["predicted"] == pytest.approx((2 + 3) / 2 / 19)
    assert len(reliability(truth[:3], scores[:3])) == 3
