"""Finding the FFNs of a loaded model and changing them for a while."""
