"""Pure maths over scores and weights: no files, no models, no knowledge of records."""
