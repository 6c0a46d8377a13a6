"""What `l2o splat` remembers, and whose folder it refuses."""

import pytest

from l2o_splat.splat.errors import SplatError
from l2o_splat.splat.journal import JOURNAL_NAME, Journal, open_journal


def test_a_journal_is_read_back_as_it_was(tmp_path):
    journal = Journal("/photos", "learn2splat", {"registered": 3}, ["1"], 20.0, [{"seconds": 1.0}], {"poses": 2.0})
    journal.took("poses", 1.0)
    journal.save(tmp_path)
    assert open_journal(tmp_path, "/photos", "learn2splat") == journal
    assert journal.seconds == {"poses": 3.0}


def test_a_folder_with_anything_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SplatError, match=r"holds thesis\.txt and no splat\.json; give --out a new"):
        open_journal(tmp_path, "/photos", "learn2splat")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("photos", "method", "message"),
    [("/other", "resplat", "photographs /photos, not /other"), ("/photos", "l2o-adam-tuned", "method resplat, not")],
)
def test_results_of_something_else_are_refused(tmp_path, photos, method, message):
    Journal("/photos", "resplat").save(tmp_path)
    with pytest.raises(SplatError, match=message):
        open_journal(tmp_path, photos, method)


@pytest.mark.parametrize("text", ["{", "[]", '{"photos": "/photos"}'])
def test_a_broken_journal_is_one_sentence(tmp_path, text):
    (tmp_path / JOURNAL_NAME).write_text(text)
    with pytest.raises(SplatError, match="cannot be read"):
        open_journal(tmp_path, "/photos", "resplat")
