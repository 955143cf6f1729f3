"""What a visitor sees: four tabs, their pictures and words, and what their buttons do."""
