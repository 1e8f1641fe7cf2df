"""Whether an exception says that memory ran out, whoever raised it.

Accelerators, torch's CPU allocator and the operating system each say it in their own words. This
file does not know what to do about it: halve, offload or give up is the caller's choice.
"""

from __future__ import annotations

import errno

# torch's DefaultCPUAllocator, the accelerators, mmap of a safetensors file ("os error 12").
WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on an accelerator or on the CPU.

    torch.OutOfMemoryError is a RuntimeError; its words are matched, so torch is not imported.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    kind = type(error).__name__
    told = isinstance(error, RuntimeError | OSError) or kind == "SafetensorError"
    return kind == "OutOfMemoryError" or (told and any(w in str(error).lower() for w in WORDS))
