"""Words that every room uses: errors, events, targets, recipes, files on disk. No torch."""
