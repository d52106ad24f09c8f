"""The measurement of the pages: each of them is asked, and a filled database is kept."""

import pytest

from evmeter_tools.errors import UserError
from evmeter_tools.insight.reports import REPORTS
from evmeter_tools.measure import pages


def test_every_page_of_the_mix_answers(tmp_path):
    path = pages.database(40, 400, tmp_path)
    changed = path.stat().st_mtime_ns
    assert pages.database(40, 400, tmp_path) == path and path.stat().st_mtime_ns == changed
    with pages.Pages(path, tmp_path) as served:
        found = pages.times(served, 1)
        mix = pages.mix(served.known)
        with pytest.raises(UserError, match="422"):
            served.ask("/api/v1/insight/none?from_ms=1&to_ms=2")
    assert set(found) == {"login"} | {name for name, *_ in mix}
    assert sum(map(len, found.values())) == 1 + sum(weight for _, _, weight, _ in mix)
    assert {name.partition(",")[0] for name in found} >= set(REPORTS)
    assert all(ms > 0 for own in found.values() for ms in own)


def test_the_filled_database_is_made_anew_by_another_generator(tmp_path, monkeypatch):
    path = pages.database(2, 4, tmp_path)
    other = tmp_path / "generator.py"
    other.write_text("another one")
    monkeypatch.setattr(pages.derived, "__file__", str(other))
    newer = pages.database(2, 4, tmp_path)
    assert newer != path and newer.exists() and not path.exists()
