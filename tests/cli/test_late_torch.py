"""Torch is imported when something of it is first used, whoever uses it, and then it is the module it always is."""

import subprocess
import sys

CODE = """
import sys, threading
from types import ModuleType
from dycoke.lab.late_torch import put_off_torch

put_off_torch()
import torch
import dycoke.methods
from dycoke.registry import available, build, entry

late = type(torch)
assert late is not ModuleType and "torch.nn" not in sys.modules
assert all(build(name) and entry(name).stages for name in available())
assert type(torch) is late, "a file of methods uses torch when it is imported"

found = []
def use():
    import torch.nn
    found.append(torch.nn.Linear(2, 3)(torch.ones(4, 2)).shape == (4, 3))

threads = [threading.Thread(target=use) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
assert found == [True] * 4
assert type(torch) is ModuleType and torch is sys.modules["torch"] and torch._dynamo.__name__ == "torch._dynamo"
assert not hasattr(torch, "no_such_name")
put_off_torch()
assert torch is sys.modules["torch"]
"""


def test_torch_waits_for_its_first_use():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


MODULE_FIRST = """
import sys
from dycoke.lab.late_torch import put_off_torch

put_off_torch()
from torch.cuda import is_available
import torch

assert sys.modules["torch.cuda"] is torch.cuda and torch.cuda.is_available is is_available
assert torch.cuda.memory._lazy_init.__globals__ is vars(torch.cuda)
assert torch.cuda.__spec__.origin == torch.cuda.__file__
"""


def test_a_module_of_torch_is_run_once_where_it_is_the_first_use():
    done = subprocess.run([sys.executable, "-c", MODULE_FIRST], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
