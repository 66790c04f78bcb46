"""The replay: transitions, windows drawn from them, and their storage on the device."""
