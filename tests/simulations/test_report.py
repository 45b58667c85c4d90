import json

import pytest

from simulations.report import Claim, claims_table, document, page, table, write


def claim(value, low=None, high=None, direction="at_most"):
    return Claim("a.b", "It is quick", value, "s", direction, 1.0, low, high)


@pytest.mark.parametrize(
    ("stated", "verdict"),
    [
        (claim(0.9), "holds"),
        (claim(1.1), "falls"),
        (claim(1.1, direction="at_least"), "holds"),
        (claim(0.9, 0.8, 1.2), "inconclusive"),
        (claim(0.9, 0.8, 0.95), "holds"),
    ],
)
def test_the_verdict_is_computed_from_the_figures(stated, verdict):
    assert stated.verdict == verdict


def test_what_is_shown_cannot_become_markup():
    assert "<script>" not in table(["<script>"], [["<script>"]])
    assert "<script>" not in page("<script>", "", {"<script>": ""})


def test_a_report_is_a_pair_of_files_that_need_nothing_else(tmp_path):
    claims = [claim(0.5)]
    write(tmp_path / "r", document(claims, {"n": 1}, {}, [0]), page("T", "", {"Claims": claims_table(claims)}))
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    assert content["claims"][0]["verdict"] == "holds"
    assert content["versions"]["python"]
    shown = (tmp_path / "r" / "report.html").read_text()
    assert "It is quick" in shown
    assert "http" not in shown


def test_a_figure_that_is_no_number_is_refused_rather_than_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write(tmp_path, document([claim(float("nan"))], {}, {}, []), "")
    assert not list(tmp_path.iterdir())
