"""Whether a worker's process goes on to its next job, with the imports, the model and the GPU's context that it has.

Ray ends a process by itself after ``max_calls`` jobs and in no other way that keeps the last outcome and costs no other
job a try, so that is what a process says of itself here: that it has done as many.  It does so

* after a job that has failed, which may have left anything behind: full memory, a lost GPU, threads, patched modules;
* where it is given another GPU than before: CUDA stays with the first, whatever CUDA_VISIBLE_DEVICES says then.

This is not of Ray's interface (tried with 2.60); where Ray has changed, a process on a GPU does one job.
"""

from __future__ import annotations

import sys
from typing import Any

#: ``max_calls`` of a process that may stay: never reached by counting.
NEVER = 10**9

#: The GPUs that this process had in its first job; None before.
_gpus: tuple[Any, ...] | None = None


def can_leave() -> bool:
    """Whether this Ray lets a process say that it has done all its jobs."""
    tables = ("_num_task_executions", "_function_execution_info")
    return all(isinstance(getattr(_manager(), table, None), dict) for table in tables)


def leave() -> None:
    """Have Ray end this process once it has the outcome of the job at hand."""
    if can_leave():
        manager = _manager()
        for function, known in manager._function_execution_info.items():
            if getattr(known, "max_calls", None) == NEVER:
                manager._num_task_executions[function] = NEVER - 1  # Ray counts the job at hand when it is done


def moved() -> bool:
    """Whether Ray has given this process other GPUs than in its first job."""
    global _gpus
    now = _assigned()
    if _gpus is None:
        _gpus = now
    return now != _gpus


def _assigned() -> tuple[Any, ...]:
    """The GPUs of the job at hand; none outside of Ray."""
    ray = sys.modules.get("ray")
    return tuple(ray.get_gpu_ids()) if ray is not None and ray.is_initialized() else ()


def _manager() -> Any:
    """Ray's table of functions in this process; None outside of Ray."""
    worker = sys.modules.get("ray._private.worker")
    return getattr(getattr(worker, "global_worker", None), "function_actor_manager", None)
