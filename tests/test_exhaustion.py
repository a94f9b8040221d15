from __future__ import annotations

import errno

import pytest
import torch

from medformer.errors import ResourceError, enough_memory, exhaustion

MEMORY = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"), "CUDA out of memory. Tried 2 GiB"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator: can't allocate memory"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "killed by signal"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    (MemoryError(), "MemoryError"),
]


@pytest.mark.parametrize(("error", "reason"), MEMORY)
def test_every_form_of_a_lack_of_memory_is_one_error(error: Exception, reason: str) -> None:
    found = exhaustion(error)
    assert found is not None and found.exit_code == 5
    assert "Out of memory" in str(found) and reason in str(found) and "more" not in str(found)
    with pytest.raises(ResourceError) as caught, enough_memory(lambda: "Use less."):
        raise error
    assert str(caught.value).startswith("Use less. Reported: ") and reason in str(caught.value)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), OSError(errno.EDQUOT, "Quota")])
def test_a_full_disk_is_not_called_memory(error: OSError) -> None:
    found = exhaustion(error)
    assert found is not None and "disk is full" in str(found) and "--resume" in str(found)
    with pytest.raises(OSError), enough_memory(lambda: "Use less."):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOENT, "gone"), ValueError("x")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert exhaustion(error) is None
    with pytest.raises(type(error)), enough_memory(lambda: "Use less."):
        raise error
