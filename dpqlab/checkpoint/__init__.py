"""Save and load compressed models; nothing that a file says is believed before it is checked."""
