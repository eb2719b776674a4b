"""ToMi (Le et al. 2019): one row a story with a question; here the odd stories' questions of fact, answered freely."""


def rows(source):
    stories = {}
    for row in source.jsonl("evals/registry/data/theory_of_mind/tomi/test.jsonl"):
        story, question = row["input"][0]["content"].split(" Where ")
        odd = stories.setdefault(story, len(stories)) % 2  # the even stories are tomi
        if odd and question.startswith(("is ", "was ")):
            yield {
                "story": story.replace("_", " "),
                "question": "Where " + question.replace("_", " "),
                "place": row["ideal"].replace("_", " "),
            }
