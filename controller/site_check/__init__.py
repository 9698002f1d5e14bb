"""What a Django project says of itself in its files, and what that means for its site. Nothing of the project is imported or executed."""
