"""Five lexicons: one row a word with Y where it exists; a document is a word that is in one lexicon only."""

import random

LEXICONS = {
    "Afrikaans": "afrikaans",
    "French": "french",
    "Irish": "irish",
    "Portuguese": "brazilian",
    "Spanish": "spanish",
}
CAP = 783  # words a language, so that none is the majority: what the smallest lexicon has of its own


def rows(source):
    words = {}
    for language, folder in LEXICONS.items():
        found = source.jsonl(f"evals/registry/data/{folder}-lexicon/samples.jsonl")
        spelt = (row["input"][-1]["content"].strip() for row in found if row["ideal"] == "Y")
        words[language] = {word.lower() for word in spelt if word.isalpha() and len(word) > 1}
    for label, (language, own) in enumerate(words.items()):
        others = set().union(*(found for name, found in words.items() if name != language))
        only = sorted(own - others)
        for word in random.Random(label).sample(only, min(CAP, len(only))):
            yield {"word": word, "label": label}
