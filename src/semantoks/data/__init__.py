"""What the brain gives: atlases, recordings, and the store that holds a cohort."""
