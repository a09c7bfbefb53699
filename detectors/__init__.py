"""What tells normal from abnormal, one file each; what they are built from, learn from and are measured by."""
