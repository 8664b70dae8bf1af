"""What is wrong with a data set: pictures that occur twice, padding, black bars; a table and a page of pictures."""
