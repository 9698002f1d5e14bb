"""What `make load` lets loose, measures and reports."""
