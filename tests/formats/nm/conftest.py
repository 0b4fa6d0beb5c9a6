"""What the tests of NM files share."""

import pytest


@pytest.fixture
def notes(caplog):
    """What was told so far, as one text."""
    return lambda: "\n".join(record.getMessage() for record in caplog.records)
