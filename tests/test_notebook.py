"""HTML views in notebooks."""

from __future__ import annotations

from reslink.notebook import html_table


def test_values_are_escaped_and_none_is_left_out() -> None:
    html = html_table("<b>", {"file": "<script>alert(1)</script>", "slice": None, "n": 3})
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&lt;b&gt;" in html
    assert "slice" not in html
    assert html.count("<tr>") == 2
