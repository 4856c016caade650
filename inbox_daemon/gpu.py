"""The GPUs of this host as NVML sees them.

NVML calls can block for ever in the driver, so this is called only where that hurts nobody: in the worker process.
No GPU and no driver are answers, not exceptions.
"""

from __future__ import annotations

import pynvml


def names() -> tuple[str, ...]:
    """Return each visible GPU's product name with the driver's version; () where there is no GPU or no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(f"{pynvml.nvmlDeviceGetName(device)} (driver {driver})" for device in devices)
    except pynvml.NVMLError as error:
        return (f"unknown GPU ({error})",)
    finally:
        pynvml.nvmlShutdown()
