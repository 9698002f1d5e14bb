"""Inventories that tests read."""

# Written by hand, in another way.
ODD = """---
all:
  children:
    production:
      children:
        app:   # pages
          hosts:
            # the old one
            app1:
              ansible_host: 203.0.113.7   # public
              private_address: 198.51.100.21
            app2: {ansible_host: 203.0.113.8, private_address: 198.51.100.22}  # no newline after this"""
