"""What changes during a run: size of the photographs, SH degree, growth, and when its time is up."""
