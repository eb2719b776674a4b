"""What a person sees in the terminal, a module for each thing that is shown."""
