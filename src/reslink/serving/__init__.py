"""Where the images are: an HTTP service with a page for people, and a DICOM node, around the classifier. No torch."""
