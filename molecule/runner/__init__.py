"""What `make test` runs, and when: plan (pure), steps and their tests, execution, measurement, summary."""
