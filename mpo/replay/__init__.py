"""What is remembered: transitions, windows of them, and where they are stored."""
