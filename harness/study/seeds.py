"""Seeds by hashing: every random choice has a separate seed, and nothing but its name decides it.

A seed is a function of (root, order, seed, axis), so adding a method, a task or a trial changes nobody else's, and
trials that should be paired (same order and seed, other method) share theirs.
"""

from __future__ import annotations

import hashlib


def derive(*parts: object) -> int:
    """A 63-bit seed from the parts' text, the same on every machine and Python."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
