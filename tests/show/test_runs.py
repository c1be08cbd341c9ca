import pytest

from survey_lib.evidence.records import Record
from survey_lib.show import page, runs


def made(value, status="done", error=""):
    return Record("a_paper", "quick", {}, 0, "k", status, {"x": value}, error, {"seconds": 2.5})


@pytest.fixture
def ran(monkeypatch):
    """A runner that made one run, of which the study holds another twin."""
    given = {"live": [made(1.0)], "study": [made(1.0), made(2.0)], "compared": []}
    monkeypatch.setattr(runs.runner, "run", lambda slug, profile: given["live"])
    monkeypatch.setattr(runs, "study", lambda slug: given["study"])

    def differences(slug, live, recorded):
        given["compared"].append(slug)
        return ["x differs"]

    monkeypatch.setattr(runs.judging, "differences", differences)
    monkeypatch.setattr(runs.judging, "drifted", lambda *given: ["y differs", "z differs"])
    return given


def test_the_quick_slice_is_compared_with_its_recorded_twins(ran, opened, capsys):
    live, recorded = runs.live_and_recorded()
    assert (len(live), len(recorded)) == (1, 2)
    assert ran["compared"] == ["a_paper"]
    said = capsys.readouterr().out
    assert said == (
        "x differs\n2 numbers differ by more than the card allows: another processor\n"
        "1 runs, 2 core-seconds; 2 recorded runs beside them\n"
    )


def test_other_profiles_and_chapters_without_a_study_are_not_compared(ran, opened, capsys):
    page.begin("a_paper", "smoke")
    runs.live_and_recorded()
    page.begin("a_paper", "quick")
    ran["study"] = []
    runs.live_and_recorded()
    assert not ran["compared"]


def test_a_failed_run_is_an_error_with_its_traceback(ran, opened):
    ran["live"] = [made(1.0), made(0, "failed", "ZeroDivisionError: here")]
    with pytest.raises(RuntimeError, match="1 runs of a_paper failed; the first:\nZeroDivision"):
        runs.live_and_recorded()


def test_a_page_must_be_open(ran):
    with pytest.raises(RuntimeError, match="no page is open"):
        runs.live_and_recorded()
