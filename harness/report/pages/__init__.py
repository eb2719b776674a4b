"""The pages, of a study, of an audit and over all studies, and how one is put together."""
