"""The picture of four lessons on learning values."""

import json

from PIL import Image

from commands.drawing import lessons


def test_its_numbers_teach_what_the_page_says(command, tmp_path, monkeypatch):
    for name, few in {
        "ACTIONS": (2, 8),
        "DRAWS": 4000,
        "EPISODES": 60,
        "RUNS": 20,
        "STATES": (6,),
        "UPDATES": 300,
    }.items():
        monkeypatch.setattr(lessons, name, few)
    answer = command("figure", "value-learning", "--output", tmp_path / "a.png", "--draws", 1, "--json")
    assert answer.status == 0
    points = json.loads(answer.out)["points"]
    for point in points[:2]:
        assert abs(point["max"] - point["exact"]) < 0.05
        assert abs(point["double"]) < 0.05
    one, two = (point["left"] for point in points if point["lesson"] == "maximisation bias")
    assert sum(one[30:]) > 1.5 * sum(two[30:])
    uniform, prioritized = (point["updates"][0] for point in points if point["lesson"] == "blind cliffwalk")
    assert prioritized < uniform / 2
    ends = [point["returns"][-1] for point in points if point["lesson"] == "shaping"]
    assert ends[2] < ends[0] == ends[1]
    one, two = (point["errors"] for point in points if point["lesson"] == "dueling")
    assert one[0] < one[1] < one[2]
    assert all(many > 2 * few for many, few in zip(one, two, strict=True))
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1400, 700)
