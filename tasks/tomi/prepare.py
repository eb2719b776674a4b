"""ToMi (Le et al. 2019): one row a story with a question, six rows a story; here the even stories."""

import re

# fmt: off
PLACES = [
    "basket", "bathtub", "bottle", "box", "bucket", "container", "crate", "cupboard", "drawer", "envelope", "pantry",
    "suitcase", "treasure_chest",
]
# fmt: on


def rows(source):
    stories = {}
    for row in source.jsonl("evals/registry/data/theory_of_mind/tomi/test.jsonl"):
        story, question = row["input"][0]["content"].split(" Where ")
        if stories.setdefault(story, len(stories)) % 2:
            continue  # the odd stories are tomi_facts
        # In alphabetical order, so that the place in the list says nothing about the answer.
        named = [place for place in PLACES if re.search(rf"\b{place}\b", story)]
        yield {
            "story": story.replace("_", " "),
            "question": "Where " + question.replace("_", " "),
            "choices": [place.replace("_", " ") for place in named],
            "label": named.index(row["ideal"]),
        }
