"""Cut a long text into training and held-out regions that do not touch."""

HELD_OUT_SHARE, HELD_OUT_REGIONS = 0.2, 2
GAP = 4000  # characters dropped on each side of a stretch


def split_regions(text: str) -> tuple[list[str], list[str]]:
    """Set aside two stretches of ``text``, a fifth in all, for testing, and drop a gap on both sides of each.

    The gaps keep a scene that runs over a border from being in both parts. Held-out stretches are spread evenly, each
    in the middle of its share of the text, so that they sample all of the book and not only its end.

    Args:
        text: the whole text.

    Returns:
        The training regions and the held-out regions, both in the order of the text.

    Raises:
        ValueError: the text is too short.
    """
    span = len(text) / HELD_OUT_REGIONS
    held = int(span * HELD_OUT_SHARE)
    if held < 1 or held + 2 * GAP >= span:
        raise ValueError(
            f"a text of {len(text)} characters is too short for {HELD_OUT_REGIONS} held-out regions of "
            f"{held} characters with gaps of {GAP}; give a longer one"
        )
    train, test, position = [], [], 0
    for region in range(HELD_OUT_REGIONS):
        start = int(span * region + (span - held) / 2)
        train.append(text[position : start - GAP])
        test.append(text[start : start + held])
        position = start + held + GAP
    train.append(text[position:])
    return train, test
