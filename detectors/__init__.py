"""What tells normal from abnormal, one file each; what they are built from, trained by and measured with."""
