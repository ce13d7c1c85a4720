"""Many runs as easily as one."""
