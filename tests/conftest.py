"""Offline everywhere, and kernels in Triton's interpreter where there is no GPU. Set before anything is imported."""

import os
import signal
import tempfile

import pytest
import torch

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
os.environ.setdefault("HF_HOME", tempfile.mkdtemp(prefix="dycoke-hf-"))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


# A shell that runs the tests in the background has them, and what they start, ignore these.
for sign, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(sign) == signal.SIG_IGN:
        signal.signal(sign, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    more = "run what is marked thorough, too, and the model on every benchmark in miniature"
    parser.addoption("--all", action="store_true", help=more)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked thorough unless all is asked for, and begin with what takes longest.

    Two processes share the tests: one that starts with the longest is not left with it at the end.
    """
    if not config.getoption("--all"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if config.getoption("loadgroup", default=False):
        for item in items:
            _keep_together(item)


def _keep_together(item: pytest.Item) -> None:
    """Write a test's group behind its id, by which pytest-xdist sends the tests of a group to one process.

    pytest-xdist 3.8 does so itself, by an attribute that pytest 9.2 does not have any more.
    """
    group = item.get_closest_marker("xdist_group")
    if group is not None and hasattr(item, "_id"):
        item._id = type(item._id).parse(f"{item.nodeid}@{group.args[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> object:
    """Fail a test that leaves gradients off, with its fixtures gone, and give those behind it gradients again."""
    result = yield
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        pytest.fail(f"{item.nodeid} left gradients off", pytrace=False)
    return result
