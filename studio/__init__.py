"""What a person meets: command line and pages. Imports everything, imported by nothing."""
