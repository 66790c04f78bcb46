"""From answers to pages: figures, the summary, tables for papers."""
