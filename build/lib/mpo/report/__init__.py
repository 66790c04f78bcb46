"""Figures, the summary page, HTML pages and tables for papers."""
