"""Settings are strict however they are made, and those of an earlier run are read whatever has been added since."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from linformers.files.settings import Count, Positive, RunSettings, Share, StrictModel, build


class Part(StrictModel):
    size: Count = 3
    share: Share = 0.5


class Whole(RunSettings):
    names: tuple[str, ...]
    rate: Positive = 1.0
    kind: Literal["plain", "fancy"] = "plain"
    weights: dict[str, float] = {}
    width: Annotated[int, Field(ge=8)] | None = None
    part: Part = Part()
    quiet: bool = False

    def _check(self) -> None:
        if self.quiet and not self.names:
            raise ValueError("quiet=true has nothing to say; name something")


def made(**values: Any) -> Whole:
    return Whole(**{"output": "o", "names": ["a"], **values})


def test_lists_whole_numbers_and_empty_sections_are_taken() -> None:
    whole = made(rate=2, part=None)
    assert whole.names == ("a",) and whole.part == Part() and isinstance(whole.rate, float)
    with pytest.raises(ValidationError, match="frozen"):
        whole.rate = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": "1"}, "rate='1' must be a number"),
        ({"rate": True}, "rate=True must be a number"),
        ({"rate": float("inf")}, "rate=inf must be a finite number"),
        ({"rate": 0}, "rate=0 must be above 0"),
        ({"width": 4}, "width must be at least 8, got 4: give a larger one."),
        ({"width": "wide"}, "width='wide' must be a whole number"),
        ({"quiet": 1}, "quiet=1 must be true or false"),
        ({"quiet": True, "names": []}, "quiet=true has nothing to say; name something"),
        ({"names": "a"}, "names must be a list, got 'a'; write [a]"),
        ({"names": ["a", 3]}, "names[1]=3 must be text"),
        ({"weights": {"x": "y"}}, "weights.x='y' must be a number"),
        ({"kind": "fanzy"}, "kind='fanzy' is unknown: choose one of plain, fancy. Did you mean 'fancy'?"),
        ({"part": 3}, "part must be a section with keys below it, got 3"),
        ({"part": {"share": 1}}, "part.share=1 must be below 1"),
        ({"part": {"sizes": 1}}, "part.sizes is no key of a recipe. Did you mean 'part.size'?"),
        ({"share": 0.1}, "share is no key of a recipe. Did you mean 'part.share'?"),
    ],
)
def test_a_mistake_is_one_line_however_settings_are_made(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        made(**values)
    assert str(error.value) == said
    with pytest.raises(ValueError) as error:
        build(Whole, {"output": "o", "names": ["a"], **values}, {"": "r.yaml:1"}, "all.")
    assert str(error.value).startswith("r.yaml:1: all.")


def test_an_unknown_key_is_told_before_the_one_that_is_missing() -> None:
    with pytest.raises(ValueError, match="^name is no key .*'names'"):
        Whole(output="o", name=["a"])  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="^names is missing; give it$"):
        Whole(output="o")  # type: ignore[call-arg]


def test_plans_of_earlier_runs(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(made(output="elsewhere").as_json())
    assert made().differences(plan) == []
    kept = json.loads(plan.read_text())
    del kept["kind"], kept["part"]  # of a version that had neither
    plan.write_text(json.dumps({**kept, "old": 1}))
    assert made().differences(plan) == ["old was 1 and is now '(not set)'"]
    assert made(kind="fancy").differences(plan) == [
        "kind was 'plain' and is now 'fancy'",
        "old was 1 and is now '(not set)'",
    ]
