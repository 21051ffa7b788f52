"""A short run of experiments/serve_soak.py."""

import pytest
import serve_soak


@pytest.mark.full
def test_good_clients_are_answered_beside_others():
    found = serve_soak.soak(4000, 6)
    assert found.refused
    assert found.malformed
    assert found.dropped
    assert len(found.memory) >= 10
