"""What a refusal looks like in a test."""

from __future__ import annotations

import pytest

from xenfs.domain import Refused


def refusal(code: int) -> pytest.RaisesExc[Refused]:
    """That a call is refused with this errno."""
    return pytest.raises(Refused, check=lambda error: error.errno == code)
