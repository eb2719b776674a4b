"""What pyproject.toml can't say: packages are found, and ``tasks/`` becomes one.  MANIFEST.in names its files."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["harness*", "baselines*"]), "harness._tasks"],
    package_dir={"harness._tasks": "tasks"},
)
