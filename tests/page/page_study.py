"""What the study of the page tests holds."""

from __future__ import annotations

from synthetic import QUICK

ORDERS = {"a": QUICK, "b": QUICK[::-1]}
ARMS = ("frozen", "lora", "stable_lora", "lora_ema", "combined")
ODD = "<script>alert(1)</script>"
