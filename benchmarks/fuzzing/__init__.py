"""Folders made up by a program, for the loader to refuse or to read right."""
