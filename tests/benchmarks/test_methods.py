"""The comparison of methods: which rows it makes, in which order, how a peer's setting is chosen, and its table."""

import json
from pathlib import Path

import methods
import methods_report
import pytest
from contenders import METHODS, PEERS
from matplotlib.figure import Figure


def benchmark(**changes):
    return methods.Benchmark(Path("flickr8k"), Path("work"), **changes)


def test_the_recipes_of_truetag_train_come_first_and_peers_are_on_features():
    found = methods.jobs(benchmark(data=("flickr8k",), seeds=(0,), columns=("swap 2", "flip 0.1, 0.1")))
    assert [(job.method, job.column) for job in found[:2]] == [("best", "swap 2"), ("best", "flip 0.1, 0.1")]
    by_name = {(job.method, job.column): job for job in found}
    assert by_name["best", "swap 2"].is_recipe
    assert not by_name["best", "flip 0.1, 0.1"].is_recipe
    assert not by_name["gce", "swap 2"].is_recipe
    assert ("mil-star", "swap 2") in by_name
    assert ("mil-star", "flip 0.1, 0.1") not in by_name  # a recipe only, and flips are made of tags
    assert ("upper bound", "flip 0.1, 0.1") not in by_name  # nobody swapped a caption


def test_the_shop_is_left_out_unless_its_folder_is_given():
    assert not any(job.data == "shop" for job in methods.jobs(benchmark()))
    found = [job for job in methods.jobs(benchmark(shop=Path("shop"))) if job.data == "shop"]
    assert {job.column for job in found} == {"names"}
    assert "upper bound" in {job.method for job in found}
    assert methods.source_of(benchmark(shop=Path("shop")), "shop") == Path("shop")
    assert methods.source_of(benchmark(shop=Path("shop")), "scenes") == Path("flickr8k")


def test_seeds_are_the_outer_loop():
    seeds = [job.seed for job in methods.jobs(benchmark(seeds=(0, 1)))]
    assert seeds == sorted(seeds)


def test_names_of_rows_are_file_names_of_their_own():
    names = [job.name for job in methods.jobs(benchmark())]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set(" ,/") for name in names)


def test_a_peer_gets_the_value_with_the_highest_held_out_ap():
    values = METHODS["gce"].values
    aps = {("gce", index): ap for index, ap in enumerate((0.1, 0.3, 0.2))}
    assert methods.best_value("gce", aps) == values[1]
    assert all(len(METHODS[name].values) == 3 for name in PEERS)


def test_the_readme_table_has_the_means_and_the_strongest_peer():
    def rows(method, column, *values):
        return {(method, column): [{"mean_ap": value, "seed": seed} for seed, value in enumerate(values)]}

    table = {
        **rows("mlcn-star", "clean", 0.25, 0.27),
        **rows("best", "clean", 0.3),
        **rows("gce", "clean", 0.26),
        **rows("ll-r", "clean", 0.28),
    }
    lines = methods_report.readme_table(table)
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines if line.startswith("| ")}
    assert cells["mlcn-star (fair baseline)"] == "26.00"
    assert cells["strongest of 2 published losses"] == "28.00"
    assert cells["**best**"] == "**30.00**"
    assert cells["nmn-fi"] == "–"


def test_a_difference_is_of_the_seeds_that_both_have():
    def row(seed, *aps):
        return {"seed": seed, "resampled_ap": list(aps)}

    table = {("a", "clean"): [row(0, 0.3, 0.3), row(1, 0.9, 0.9)], ("b", "clean"): [row(0, 0.2, 0.2)]}
    assert methods_report.difference_of(table, "clean", "a", "b") == "+10.00 [+10.00, +10.00]"
    assert methods_report.difference_of(table, "swap 1", "a", "b") == "–"


def test_the_report_says_only_what_was_run(tmp_path):
    (tmp_path / "rows").mkdir()
    row = {"data": "flickr8k", "column": "swap 2", "of1": 0.5, "cf1": 0.4, "ece": 0.01, "commit": "abc", "value": None}
    for method, seed, ap in (("mlcn-star", 0, 0.2), ("mlcn-star", 1, 0.4), ("ll-r", 0, 0.3)):
        values = row | {"method": method, "seed": seed, "mean_ap": ap, "resampled_ap": [ap, ap]}
        (tmp_path / "rows" / f"{method}-{seed}.json").write_text(json.dumps(values))
    methods_report.write_report(tmp_path, tmp_path / "methods.md", [("swap 2", 100)])
    text = (tmp_path / "methods.md").read_text()
    assert "| mlcn-star | 30.00 ± 14.14 |" in text
    assert "| ll-r | 30.00 |" in text  # one seed has no spread
    assert "Seeds: 2 of mlcn-star; 1 of ll-r." in text
    assert "`swap`, captions" in text
    assert "`one label`" not in text
    assert "## scenes" not in text
    assert (tmp_path / "methods.png").stat().st_size > 0
    assert b"<svg" in (tmp_path / "methods.svg").read_bytes()


def test_the_picture_joins_no_columns(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(methods_report, "Figure", lambda **options: figures.append(Figure(**options)) or figures[-1])
    row = {"data": "flickr8k", "method": "mlcn-star"}
    columns = ("clean", "swap 1", "flip 0.1, 0.1")
    rows = [row | {"column": c, "seed": seed, "mean_ap": 0.2 + seed / 10} for c in columns for seed in (0, 1)]
    methods_report.draw(rows, tmp_path / "methods.png")
    swaps, flips = figures[0].axes
    for axis, count in ((swaps, 2), (flips, 1)):
        points, _, _ = axis.containers[0]
        assert points.get_linestyle() == "None"
        assert points.get_ydata() == pytest.approx([25.0] * count)


@pytest.mark.parametrize("column", ["clean", "swap 3"])
def test_swapped_columns_name_their_number(column):
    assert methods.num_swapped_in(column) == (0 if column == "clean" else 3)
    assert methods.num_swapped_in("flip 0, 0.2") is None
