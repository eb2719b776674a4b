"""Everything in documents that is made from the code: ``python -m harness.cli.documentation``.

The reference of studies and methods, and the schema of a study's file, need the registry of methods; tables of
results and metrics are those of :mod:`harness.report.documentation`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from harness.method.registry import methods
from harness.report import documentation
from harness.study.documented import methods_table, settings_table, study_tables
from harness.study.schema import study_schema

STUDY_PAGE = Path("docs", "study.md")
METHODS_PAGE = Path("docs", "methods.md")
SCHEMA = Path("docs", "study.schema.json")
_MARKED = re.compile(r"(<!-- (keys of a study|methods|settings of methods) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def documented(text: str) -> str:
    """The text with its tables written again."""
    tables = {
        "keys of a study": study_tables,
        "methods": lambda: methods_table(methods()),
        "settings of methods": lambda: settings_table(methods()),
    }
    return _MARKED.sub(lambda match: match[1] + tables[match[2]](), text)


def schema_text() -> str:
    """The schema of a study's file, as it is printed and committed."""
    return json.dumps(study_schema(methods()), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in (STUDY_PAGE, METHODS_PAGE):
        path.write_text(documented(path.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    documentation.write()
