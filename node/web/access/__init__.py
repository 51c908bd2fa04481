"""Who looks at the page, and what they may do."""
