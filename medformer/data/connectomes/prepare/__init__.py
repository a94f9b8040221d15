"""From downloads and images to a cohort."""
