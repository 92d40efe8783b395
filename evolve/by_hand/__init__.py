"""What a person does without a search: merge, score, show the tables, convert a configuration."""
