"""Pictures and pages: learning curves, off-policy evaluation, learned rewards."""
