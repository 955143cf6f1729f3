"""What `make` runs: setting up, checking and locking. Not part of the package."""
