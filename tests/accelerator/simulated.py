"""A simulated accelerator: `load` compiles it, once for all processes, and makes torch know it."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

NAME = "simulated"
SOURCE = Path(__file__).with_name("simulated.cpp")
COUNTS = (
    "uploads",
    "downloads",
    "reads",
    "pageable_uploads",
    "kernels",
    "records",
    "waits",
    "synchronizations",
)
MEMORY = 2**30  # bytes of each device, of which it says half are free


class NoCompilerError(Exception):
    """There is nothing here to compile the device with."""


@functools.cache
def load() -> torch.device:
    """The device, which from now on is this process's accelerator.

    Raises:
        NoCompilerError: If there is no C++ compiler.
    """
    torch.ops.load_library(_compiled())
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _Module)
    torch.utils.generate_methods_for_privateuse1_backend()
    return torch.device(NAME, 0)


def counts() -> dict[str, int]:
    """What has happened since `reset`."""
    return dict(zip(COUNTS, torch.ops.luzpy_simulated.counts(), strict=True))


def reset() -> None:
    """Count from zero."""
    torch.ops.luzpy_simulated.reset()


def refuse_float64(refuse: bool) -> None:
    """Whether tensors of float64 are an error, as on MPS."""
    torch.ops.luzpy_simulated.refuse_float64(refuse)


class _Module:
    """What torch asks of `torch.simulated`."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 2

    @staticmethod
    def current_device() -> int:
        return torch.ops.luzpy_simulated.current_device()

    @staticmethod
    def set_device(device: Any) -> None:
        torch.ops.luzpy_simulated.set_device(_index(device))

    @staticmethod
    @contextmanager
    def device(device: Any) -> Iterator[None]:
        before = _Module.current_device()
        _Module.set_device(device)
        try:
            yield
        finally:
            _Module.set_device(before)

    @staticmethod
    def synchronize(device: Any = None) -> None:
        torch.accelerator.synchronize(_index(device))

    @staticmethod
    def mem_get_info(device: Any = None) -> tuple[int, int]:
        return MEMORY // 2, MEMORY

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.ops.luzpy_simulated.manual_seed(_signed(seed), _index(None))

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        for index in range(_Module.device_count()):
            torch.ops.luzpy_simulated.manual_seed(_signed(seed), index)

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.ops.luzpy_simulated.get_rng_state(_index(device))

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.ops.luzpy_simulated.set_rng_state(state, _index(device))

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def _index(device: Any) -> int:
    if isinstance(device, (str, torch.device)):
        device = torch.device(device).index
    return _Module.current_device() if device is None else device


def _signed(seed: int) -> int:
    seed %= 2**64
    return seed - 2**64 if seed >= 2**63 else seed


def _compiled() -> Path:
    """The library, compiled unless this very source has been compiled before."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        raise NoCompilerError("no C++ compiler: the simulated accelerator cannot be compiled")
    flags = ["-O1", "-w", "-shared", "-fPIC", "-std=c++20" if _needs_20() else "-std=c++17"]
    flags.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
    torchs = Path(torch.__file__).parent
    known = "\n".join([SOURCE.read_text(), torch.__version__, sys.version, compiler, *flags])
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "luzpy" / "tests"
    root.mkdir(parents=True, exist_ok=True)
    library = root / f"simulated-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"
    with FileLock(library.with_suffix(".lock")):
        if not library.exists():
            unfinished = library.with_suffix(f".{os.getpid()}")
            command = [
                *(compiler, *flags, str(SOURCE), "-o", str(unfinished)),
                *(f"-I{torchs / 'include'}", f"-L{torchs / 'lib'}"),
                *("-lc10", "-ltorch_cpu", "-ltorch"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
            unfinished.replace(library)
    return library


def _needs_20() -> bool:
    """Whether torch's headers are of C++20."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 12)
