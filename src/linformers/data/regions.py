"""Cut a long text into training and held-out regions that do not touch."""


def split_regions(
    text: str, *, held_out_share: float = 0.2, held_out_regions: int = 2, gap: int = 4000
) -> tuple[list[str], list[str]]:
    """Set aside stretches of ``text`` for testing, and drop a gap on both sides of each.

    The gaps keep a scene that runs over a border from being in both parts. Held-out stretches are spread evenly, each
    in the middle of its share of the text, so that they sample all of the book and not only its end.

    Args:
        text: the whole text.
        held_out_share: share of the characters that is held out.
        held_out_regions: number of stretches that make up this share.
        gap: characters dropped on each side of a stretch.

    Returns:
        The training regions and the held-out regions, both in the order of the text.

    Raises:
        ValueError: the text is too short for the regions and gaps asked for.
    """
    span = len(text) / held_out_regions
    held = int(span * held_out_share)
    if held < 1 or held + 2 * gap >= span:
        raise ValueError(
            f"a text of {len(text)} characters is too short for {held_out_regions} held-out regions of "
            f"{held} characters with gaps of {gap}; lower held_out_regions or gap"
        )
    train, test, position = [], [], 0
    for region in range(held_out_regions):
        start = int(span * region + (span - held) / 2)
        train.append(text[position : start - gap])
        test.append(text[start : start + held])
        position = start + held + gap
    train.append(text[position:])
    return train, test
