"""The main job from end to end, on a budget too small to learn anything."""

import dataclasses

import pytest

from zoo import demo
from zoo.exports import load_exported


@pytest.mark.slow
def test_demo_leaves_everything_it_promises(tmp_path, capfd):
    recipes = {
        name: dataclasses.replace(recipe, epochs=1, batch_size=8)
        for name, recipe in demo.RECIPES.items()
    }
    results = demo.run(tmp_path / "demo", videos=2, test_videos=1, recipes=recipes)
    assert set(results) == set(demo.NETWORKS)
    assert all(r.count() == 16 and not r.skipped for r in results.values())

    report = tmp_path / "demo" / "report"
    text = (report / "README.md").read_text()
    assert "| T-ResNet " in text and "rotation_clockwise" in text
    for picture in ("scenes.png", "learning_curves.png"):
        assert (report / picture).read_bytes().startswith(b"\x89PNG")
        assert f"]({picture})" in text
    for recipe in demo.NETWORKS.values():
        assert (report / recipe / "confusion.png").is_file()

    exported = load_exported(tmp_path / "demo" / "exported" / "t_resnet_tiny")
    assert len(exported.record["labels"]) == 8
    printed = capfd.readouterr().out
    assert "In a fresh process" in printed
    assert any(label in printed for label in exported.record["labels"])

    # What is finished is not done again.
    demo.run(tmp_path / "demo", videos=2, test_videos=1, recipes=recipes)
    assert "Epoch 1" not in capfd.readouterr().out
