"""The audit: which tags are probably wrong or missing, a page to review them, and a cleaned manifest."""
