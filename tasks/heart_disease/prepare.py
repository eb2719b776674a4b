"""Heart failure prediction (UCI, 918 patients): one row a patient as ``key: value`` pairs, said shortly."""

import re

# key in the source -> the words in the prompt; the short form saves 40 of 110 tokens
SAYS = {
    "Age": "aged {}",
    "Sex": "{}",
    "Chest pain type": "pain {}",
    "Resting blood pressure": "pressure {}",
    "Serum cholesterol": "cholesterol {}",
    "Fasting blood sugar": "sugar {}",
    "Resting ECG results": "ECG {}",
    "Max heart rate achieved": "rate {}",
    "Exercise induced angina": "exercise angina {}",
    "Oldpeak": "oldpeak {}",
    "ST Slope": "slope {}",
}


def rows(source):
    for row in source.jsonl("evals/registry/data/heart-disease/samples.jsonl"):
        pairs = dict(pair.split(": ", 1) for pair in row["input"][-1]["content"].split(", "))
        patient = ", ".join(say.format(_short(pairs[key])) for key, say in SAYS.items())
        yield {"patient": patient[0].upper() + patient[1:], "label": int(row["ideal"])}


def _short(value):
    """The value in lower case without its unit; fasting sugar in a word."""
    value = {"<= 120 mg/dl": "normal", "> 120 mg/dl": "high"}.get(value, value)
    value = re.sub(r" (mm Hg|mg/dl|years)$", "", value)
    return value if value.startswith(("ST", "LV")) else value.lower()
