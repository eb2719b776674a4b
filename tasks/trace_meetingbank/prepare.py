"""MeetingBank (Hu et al. 2023): transcript of an agenda item, summary."""

import textwrap


def rows(source):
    for split in ("train", "validation", "test"):
        for row in source.split(split):
            summary = " ".join(row["summary"].split())
            if row["transcript"].strip() and 0 < len(summary) <= 600:
                transcript = textwrap.shorten(row["transcript"][:3000], 2400, placeholder=" ...")
                yield {"transcript": transcript, "answer": summary}
