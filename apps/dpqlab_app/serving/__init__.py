"""Who may ask for what: the server, its gate and limits, and what it cleans up."""
