"""What runs on an accelerator."""
