"""Units: the same cuts whatever is done already, and nothing that does not add up."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from linformers.files.inputs import Input, find_inputs
from linformers.files.rows import START, Wanted
from linformers.scoring import units
from linformers.scoring.settings import ScoreSettings
from linformers.scoring.units import Done, Unit, check_units, find_done, read_units, write_unit

NOTHING = Done(frozenset(), START, 0.0, False)
COUNTS = {"tokens": 0, "long": 0, "windows": 0, "flagged": 0}


@pytest.fixture
def settings(tmp_path: Path) -> ScoreSettings:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return ScoreSettings(model=str(tmp_path / "model"), input=("x",), output=str(tmp_path / "out"), shard_rows=4)


@pytest.fixture
def file(tmp_path: Path) -> Input:
    rows = [json.dumps({"text": f"text {i}"}) if i % 3 else "{" for i in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    return find_inputs([str(tmp_path / "a.jsonl")])[0]


def cut(file: Input, settings: ScoreSettings, done: Done = NOTHING) -> list[Unit]:
    return list(read_units(file, Wanted("text", {}), settings, done))


def write(folder: Path, unit: Unit) -> None:
    write_unit(folder, unit, pa.table({"row": pa.array(unit.lines, pa.int64())}), "parquet", COUNTS)


def test_cuts(file: Input, settings: ScoreSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cut(file, settings)
    assert [(one.first, one.last, one.final) for one in found] == [(1, 4, False), (5, 8, False), (9, 10, True)]
    assert [len(one.texts) + len(one.rejects) for one in found] == [4, 4, 2]
    assert [entry["row"] for one in found for entry in one.rejects] == [1, 4, 7, 10]
    assert found[0].begin == 0.0 and found[-1].end == 1.0
    exact = cut(file, settings.model_copy(update={"shard_rows": 5}))
    assert [(one.first, one.last, one.final) for one in exact] == [(1, 5, False), (6, 10, True)]  # no empty one behind
    monkeypatch.setattr(units, "UNIT_BYTES", 10)
    assert [(one.first, one.last) for one in cut(file, settings)][:2] == [(1, 3), (4, 6)]


def test_a_file_without_rows_is_one_unit(tmp_path: Path, settings: ScoreSettings) -> None:
    (tmp_path / "b.jsonl").write_text("")
    (file,) = find_inputs([str(tmp_path / "b.jsonl")])
    (unit,) = cut(file, settings)
    assert (unit.first, unit.last, unit.final) == (1, 0, True)
    write(tmp_path / "out", unit)
    assert find_done(tmp_path / "out" / file.key, "parquet").complete


@pytest.mark.parametrize("kept", range(8))
def test_what_is_done_is_left_out_and_nothing_else(
    tmp_path: Path, file: Input, settings: ScoreSettings, kept: int
) -> None:
    found, out = cut(file, settings), tmp_path / "out"
    for number, unit in enumerate(found):
        if kept >> number & 1:
            write(out, unit)
    done = find_done(out / file.key, "parquet")
    assert done.complete == (kept == 7)
    rest = [] if done.complete else cut(file, settings, done)
    missing = [unit for number, unit in enumerate(found) if not kept >> number & 1]
    assert [(one.first, one.texts, one.rejects) for one in rest] == [
        (one.first, one.texts, one.rejects) for one in missing
    ]
    if missing:
        with pytest.raises(ValueError, match=f"no shard of row {missing[0].first:,}"):
            check_units(out, [file], "parquet", tmp_path / "rejects.jsonl")
    for unit in rest:
        write(out, unit)
    totals, new = check_units(out, [file], "parquet", tmp_path / "rejects.jsonl")
    assert totals == new
    assert (totals.rows, totals.done, totals.rejected, totals.shards) == (10, 6, 4, 3)
    assert totals.reasons == {"wrong JSON": 4}
    lines = (tmp_path / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [1, 4, 7, 10]


def test_damage_is_seen(tmp_path: Path, file: Input, settings: ScoreSettings) -> None:
    out = tmp_path / "out"
    for unit in cut(file, settings):
        write(out, unit)
    shards = sorted((out / file.key).glob("[0-9]*"))
    (out / file.key / ".unfinished-left").write_text("by a kill")
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-1])
    assert find_done(out / file.key, "parquet").firsts == {1, 9}
    shards[1].unlink()
    assert find_done(out / file.key, "parquet").firsts == {1, 9}
    shards[1].write_bytes(whole)
    note = out / file.key / f"_{shards[2].stem}.json"
    content = note.read_text()
    note.write_text(content[:50])
    assert find_done(out / file.key, "parquet").firsts == {1, 5}
    note.write_text(content.replace('"scored": 1', '"scored": 2'))
    with pytest.raises(ValueError, match="holds 1 rows in place of 2"):
        check_units(out, [file], "parquet", tmp_path / "rejects.jsonl")
    assert not (tmp_path / "rejects.jsonl").exists()
    note.write_text(content)
    check_units(out, [file], "parquet", tmp_path / "rejects.jsonl")
    assert not (out / file.key / ".unfinished-left").exists()


def test_a_unit_that_does_not_add_up_is_not_written(tmp_path: Path, file: Input, settings: ScoreSettings) -> None:
    unit = cut(file, settings)[0]
    unit.lines.pop()
    with pytest.raises(RuntimeError, match="do not add up"):
        write(tmp_path / "out", unit)
    assert not list((tmp_path / "out").glob("*/*"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input": ()}, "input is empty"),
        ({"long": "cut"}, "long='cut' is unknown"),
        ({"engine": "spark"}, "engine='spark' is unknown"),
        ({"workers": 2}, "workers=2 is of Ray"),
        ({"queue": {"spam": 0.0}}, "queue=spam=0 must be a probability above 0"),
        ({"id": ("a", "a")}, "names a column twice"),
        ({"shard_rows": 0}, "shard_rows must be at least 1"),
    ],
)
@pytest.mark.usefixtures("bad_input")
def test_settings_that_cannot_be(settings: ScoreSettings, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ScoreSettings(**{**settings.model_dump(), **fields})
