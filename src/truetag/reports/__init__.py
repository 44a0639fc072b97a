"""Pages for people: templates, figures, and the builder that puts them into one file."""
