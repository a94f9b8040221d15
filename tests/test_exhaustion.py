from __future__ import annotations

import errno

import cv2
import pytest
import torch

from medformer.errors import ResourceError, enough_memory, exhaustion

MEMORY = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"), "CUDA out of memory. Tried 2 GiB"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator: can't allocate memory"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "killed by signal"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "CUDNN_STATUS_ALLOC_FAILED"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "CUBLAS_STATUS_ALLOC_FAILED"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "DEVICE_ALLOCATION_FAILED"),
    (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), "CUFFT_ALLOC_FAILED"),
    (RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"), "HIP out of memory"),
    (RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate`"), "HIPBLAS_STATUS_ALLOC"),
    (RuntimeError("CUDA error: rocblas_status_memory_error when calling `rocblas_create_handle`"), "rocblas"),
    (RuntimeError("miopenStatusAllocFailed"), "miopenStatusAllocFailed"),
    (RuntimeError("Invalid buffer size: 9.75 GiB"), "Invalid buffer size"),
    (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "MPS backend out of memory"),
    (RuntimeError("std::bad_alloc"), "std::bad_alloc"),
    (cv2.error("OpenCV(4.11) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"), "OpenCV"),
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


OTHERS = [
    (RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)"), "/dev/shm"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "/dev/shm"),
    (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/sem.1"), "/dev/shm"),
    (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "loader process ended early"),
    (OSError(errno.EMFILE, "Too many open files", "a.png"), "ulimit"),
    (RuntimeError("received 0 items of ancdata"), "ulimit"),
    (PermissionError(errno.EACCES, "Permission denied", "/data/a.png"), "No permission"),
    (OSError(errno.EROFS, "Read-only file system", "/data/a.png"), "/data/a.png"),
]


@pytest.mark.parametrize(("error", "word"), OTHERS)
def test_what_else_is_lacking_is_said_with_what_helps(error: Exception, word: str) -> None:
    found = exhaustion(error)
    assert found is not None and found.exit_code == 5 and word in str(found)
    with pytest.raises(type(error)), enough_memory(lambda: "Use less."):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), OSError(errno.EDQUOT, "Quota")])
def test_a_full_disk_is_not_called_memory(error: OSError) -> None:
    found = exhaustion(error)
    assert found is not None and "disk is full" in str(found) and "--resume" in str(found)
    with pytest.raises(OSError), enough_memory(lambda: "Use less."):
        raise error


# What a GPU also says for another reason than memory is not called a lack of it.
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        OSError(errno.ENOENT, "gone"),
        ValueError("x"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert exhaustion(error) is None
    with pytest.raises(type(error)), enough_memory(lambda: "Use less."):
        raise error
