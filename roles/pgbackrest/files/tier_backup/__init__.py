"""What tier-backup consists of; program is its command line."""
