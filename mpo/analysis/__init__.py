"""From runs to answers: tables, scores, intervals and effects."""
