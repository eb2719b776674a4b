"""The jobs on Ray's workers: the only modules that import ray, and nothing here does so by being imported.

``settings`` is Ray's environment, which has to be there before ray is imported; ``cluster`` starts Ray or joins it, and
says in one message why that failed or what died; ``task`` is a worker's side of a job, ``executor`` the driver's.
"""
