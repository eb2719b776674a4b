"""What the report says: numbers as text, sentences, notes, and the tables for page, Markdown and LaTeX."""
