"""search.yaml as a value: validated whole, with every problem reported at once."""
