"""What a model is asked, and how answers become per-document scores. The only room that knows lm-eval."""
