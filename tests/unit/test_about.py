"""What scenarios are called in a report."""

from __future__ import annotations

from testbed.report.about import About, sent_along
from testbed.report.results import short_name


def test_a_report_of_a_crashed_worker_has_a_name_still() -> None:
    assert sent_along("test_x.py::test_y[v4]", []) == About("test_x.py", "test_y[v4]", "", "")


def test_names_as_printed() -> None:
    assert short_name("a/test_4_close.py::test_it[v4]") == "4_close::it[v4]"
