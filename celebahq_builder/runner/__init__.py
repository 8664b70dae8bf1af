"""Plan a build, run what is not done yet, reconcile the counts, mark it complete; it never touches a pixel."""
