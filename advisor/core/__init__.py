"""Words that every room uses: errors, events, targets, target sets, training recipes, files on disk. No torch."""
