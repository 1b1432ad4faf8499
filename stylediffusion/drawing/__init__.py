"""Pictures made of pictures: labelled sheets, and unedited pixels put back."""
