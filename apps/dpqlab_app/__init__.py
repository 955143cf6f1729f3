"""The dpqlab app: full precision and one bit draw the same picture, in a browser."""
