"""Off-policy evaluation: what a policy would earn, from a log of another one."""
