"""Tests that share a costly fixture run in one process, where several share the tests."""

import pytest


@pytest.mark.xdist_group("a group")
def test_the_group_of_a_test_is_part_of_its_id(request):
    """It is how pytest-xdist knows; without it every process makes the fixture for itself."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("the tests run in one process")
    assert request.node.nodeid.endswith("@a group")
