"""What the figures were measured on."""

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

LSCPU_FIELDS = (
    "Model name",
    "Thread(s) per core",
    "Core(s) per socket",
    "Socket(s)",
    "L1d cache",
    "L2 cache",
    "L3 cache",
    "Hypervisor vendor",
)
VECTOR_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
# Of threads, kernels and memory: what can change a time.
ENV_PREFIXES = (
    *("OMP_", "KMP_", "MKL_", "MALLOC_", "ONEDNN_", "DNNL_", "XLA_", "TOKENIZERS_"),
    *("TF_ENABLE_", "TF_ONEDNN_", "TF_NUM_", "TF_XLA_"),
)


def threads_available() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor_name() -> str:
    """Names the kind of processor, for files: `intel_xeon_amx_tile`, `amd_epyc_avx512_bf16`."""
    machine = describe_machine()
    model = machine.get("Model name", platform.machine()).replace("(R)", "").partition("@")[0]
    words = [word for word in model.lower().split() if word not in ("cpu", "processor")]
    widest = machine["Vector units"].split(", ")[-1]
    return "_".join(filter(None, [*words[:2], widest]))


def describe_machine() -> dict[str, Any]:
    """Describes CPU, memory, system and this process' environment."""
    fields = _lscpu()
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return {
        **{name: fields[name] for name in LSCPU_FIELDS if name in fields},
        "Vector units": ", ".join(flag for flag in VECTOR_FLAGS if flag in flags),
        "Cores usable": threads_available(),
        "Memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "System": f"{platform.system()} {platform.release().split('-')[0]}",
        "Niceness": os.nice(0),
        "Environment": {
            name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIXES)
        },
    }


@functools.cache
def _lscpu() -> dict[str, str]:
    try:
        listing = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    pairs = (line.partition(":") for line in listing.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
