"""What the report says: sentences, notes, and the tables for page, Markdown and LaTeX."""
