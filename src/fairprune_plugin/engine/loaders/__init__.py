"""What comes out of users' loaders: batches, their order, who is in them, and parts of them held out."""
