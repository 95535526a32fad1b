"""What is wrong with a data set: twins, shortcuts, burned-in text, identity, labels and files."""
