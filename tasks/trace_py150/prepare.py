"""Py150 line completion (CodeXGLUE): input (a file's beginning as tokens), gt (the next line)."""

import re


def plain(code):
    code = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return re.sub(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", r"\1", code, flags=re.DOTALL)


def rows(source):
    for row in source.split("train"):
        code, answer = plain(row["input"].strip()), " ".join(plain(row["gt"]).split())
        if len(code) > 1500:
            code = code[-1500:].partition(" ")[2]
        if code.strip() and answer:
            yield {"code": code, "answer": answer}
